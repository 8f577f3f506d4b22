/* Samples made from a counter, and what onnxruntime gave for them. */
#include "dripgate.h"

#include <math.h>

#include "dripgate_golden.h"
#if DRIPGATE_ADAPTS
#include "dripgate_head.h"
#endif

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH];

static int near_to(float found, float expected, float scale)
{
    return fabsf(found - expected) <= DRIPGATE_TOLERANCE * scale;
}

/* The same numbers as dripgate.embed.golden in Python: steps of a 32-bit congruential generator
 * (Numerical Recipes), held for DRIPGATE_HOLD values so that there is something to see. */
static void make(uint32_t seed)
{
    uint32_t state = seed;
    for (int32_t i = 0; i < DRIPGATE_SAMPLE_LENGTH; ++i) {
        if (i % DRIPGATE_HOLD == 0) {
            state = state * 1664525u + 1013904223u;
        }
        sample[i] = DRIPGATE_GOLDEN_VALUE(state);
    }
}

static int first_wrong(void)
{
    for (int i = 0; i < DRIPGATE_GOLDEN; ++i) {
        dripgate_verdict verdict;
        make((uint32_t)i + 1);
        dripgate_gate(sample, &verdict);
        const float *logits = dripgate_logits();
        float scale = 1;
        for (int c = 0; c < DRIPGATE_CLASSES; ++c) {
            scale = fabsf(golden_logits[i][c]) > scale ? fabsf(golden_logits[i][c]) : scale;
        }
        int same = 1;
        for (int c = 0; c < DRIPGATE_CLASSES; ++c) {
            same = same && near_to(logits[c], golden_logits[i][c], scale);
        }
#if DRIPGATE_HAS_SCORE
        same = same && near_to(verdict.score, golden_score[i], DRIPGATE_SCORE_SCALE);
        same = same && (golden_close[i] || verdict.decision == golden_verdict[i]);
#endif
        if (!same) {
            return i + 1;
        }
    }
    return 0;
}

int dripgate_selftest(void)
{
#if DRIPGATE_ADAPTS
    const float *const learned = dripgate_head;
    dripgate_head = dripgate_deployed;
    const int wrong = first_wrong();
    dripgate_head = learned;
    return wrong;
#else
    return first_wrong();
#endif
}
