/* Does what a file asks for, event by event, through the debugger, and writes what came of it: for
 * QEMU. A sample is decided, remembered, labelled; the head learns, is shown, is taken back.
 *
 * events.bin: the event below, and behind a sample's the sample. results.bin: the result below for
 * each. heads.bin: the learned numbers, for each event that shows them. */
#include "machine.h"

enum { DECIDE, REMEMBER, LABEL, LEARN, SHOW, UNLEARN, RESUME, KEEP };

typedef struct {
    uint32_t kind, id;
    int32_t label;
    float propensity;
} event;

typedef struct {
    float logits[DRIPGATE_CLASSES];
    float score;
    int32_t predicted, decision, status;
    uint32_t judged, right, deployed_right;
    uint32_t ticks_low, ticks_high, stack;
} result;

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH];
static dripgate_verdict verdict;
static dripgate_learner learner;
static event now;
static int status;

#ifndef DRIPGATE_PAGE
#define DRIPGATE_PAGE 8
#endif

/* Flash of which a page can only be erased whole, and then written once. */
static uint16_t flash[DRIPGATE_RING][DRIPGATE_FEATURES];

static int read_flash(void *context, uint32_t slot, dripgate_features *out)
{
    (void)context;
    memcpy(out, flash[slot], sizeof *out);
    return 0;
}

static int write_flash(void *context, uint32_t slot, const dripgate_features *in)
{
    const dripgate_storage *own = context;
    if (slot % own->page == 0) {
        memset(flash[slot], 0xFF, own->page * sizeof *in);
    }
    for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
        flash[slot][d] &= (*in)[d];
    }
    return 0;
}

static dripgate_storage storage = {read_flash, write_flash, &storage, DRIPGATE_PAGE};

static void act(void)
{
    status = 0;
    switch (now.kind) {
    case DECIDE: dripgate_decide(sample, &verdict); break;
    case REMEMBER: status = dripgate_remember(now.id, now.propensity); break;
    case KEEP:
        status = verdict.decision == DRIPGATE_DROP ? 1 : dripgate_remember(now.id, verdict.propensity);
        break;
    case LABEL: status = dripgate_label(now.id, now.label); break;
    case LEARN: status = dripgate_learn(); break;
    case UNLEARN: dripgate_unlearn(); break;
    case RESUME: status = dripgate_adapt_resume(&learner, &storage); break;
    default: break;
    }
}

int main(void)
{
    static result out;
    const int from = open_file("events.bin", 1 /* rb */), to = open_file("results.bin", 5 /* wb */);
    const int heads = open_file("heads.bin", 5);
    if (from < 0 || to < 0 || heads < 0) {
        return 2;
    }
    if (dripgate_selftest() != 0) {
        return 3;
    }
    if (dripgate_adapt(&learner, &storage) != 0) {
        return 5;
    }
    count_instructions();
    while (transfer(SYS_READ, from, &now, sizeof now) == 0) {
        uint64_t took;
        if (now.kind == DECIDE && transfer(SYS_READ, from, sample, sizeof sample) != 0) {
            return 2;
        }
        out.stack = watched(act, &took);
        memcpy(out.logits, dripgate_logits(), sizeof out.logits);
        out.score = verdict.score;
        out.predicted = verdict.predicted;
        out.decision = verdict.decision;
        out.status = status;
        out.judged = learner.judged;
        out.right = learner.right;
        out.deployed_right = learner.deployed_right;
        out.ticks_low = (uint32_t)took;
        out.ticks_high = (uint32_t)(took >> 32);
        if (transfer(SYS_WRITE, to, &out, sizeof out) != 0
            || (now.kind == SHOW
                && transfer(SYS_WRITE, heads, learner.head, sizeof learner.head) != 0)) {
            return 4;
        }
    }
    return dripgate_selftest() == 0 ? 0 : 3; /* of the deployed head, whatever was learned */
}
