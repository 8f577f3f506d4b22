#include "dripgate.h"

#include <stddef.h>
#include <string.h>

const unsigned char *dripgate_net(const void *sample);

/* Set by dripgate_init: so a firmware that never calls it links no policy. */
void (*dripgate_last_word)(dripgate_policy *, double, dripgate_verdict *);
dripgate_policy *dripgate_last_word_state;

static double now;
static float logits[DRIPGATE_CLASSES];

void dripgate_time(double seconds) { now = seconds; }

const float *dripgate_logits(void) { return logits; }

static float at(const unsigned char *arena, size_t offset)
{
    float value;
    memcpy(&value, arena + offset, sizeof value);
    return value;
}

void dripgate_gate(const dripgate_sample *sample, dripgate_verdict *out)
{
    const unsigned char *arena = dripgate_net(sample);
    memcpy(logits, arena + DRIPGATE_LOGITS_AT, sizeof logits);
    out->predicted = 0;
    for (int i = 1; i < DRIPGATE_CLASSES; ++i) {
        if (logits[i] > logits[out->predicted]) {
            out->predicted = (int16_t)i;
        }
    }
#if DRIPGATE_HAS_SCORE
    out->score = at(arena, DRIPGATE_SCORE_AT);
    out->quality = at(arena, DRIPGATE_QUALITY_AT);
    out->decision = (uint8_t)arena[DRIPGATE_VERDICT_AT];
    out->reason = out->decision == DRIPGATE_QUARANTINE ? DRIPGATE_QUALITY : DRIPGATE_BAND;
    out->propensity = out->decision == DRIPGATE_DROP ? 0.0f : 1.0f;
#else
    (void)at;
    out->score = out->quality = 0;
    out->decision = DRIPGATE_KEEP;
    out->reason = DRIPGATE_BAND;
    out->propensity = 1.0f;
#endif
}

void dripgate_decide(const dripgate_sample *sample, dripgate_verdict *out)
{
    dripgate_gate(sample, out);
    if (dripgate_last_word != NULL) {
        dripgate_last_word(dripgate_last_word_state, now, out);
    }
}
