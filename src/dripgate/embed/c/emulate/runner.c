/* Decides samples from a file, through the debugger, and writes what came out: for QEMU.
 *
 * samples.bin: the samples. results.bin: per sample the struct below. */
#include "machine.h"

typedef struct {
    float logits[DRIPGATE_CLASSES];
    float score, quality;
    int32_t predicted, decision, reason;
    uint32_t ticks_low, ticks_high, stack;
} result;

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH];
static dripgate_verdict verdict;

static void decide(void) { dripgate_decide(sample, &verdict); }

int main(void)
{
    static result out;
    const int from = open_file("samples.bin", 1 /* rb */), to = open_file("results.bin", 5 /* wb */);
    if (from < 0 || to < 0) {
        return 2;
    }
    if (dripgate_selftest() != 0) {
        return 3;
    }
    count_instructions();
    while (transfer(SYS_READ, from, sample, sizeof sample) == 0) {
        uint64_t took;
        out.stack = watched(decide, &took);
        memcpy(out.logits, dripgate_logits(), sizeof out.logits);
        out.score = verdict.score;
        out.quality = verdict.quality;
        out.predicted = verdict.predicted;
        out.decision = verdict.decision;
        out.reason = verdict.reason;
        out.ticks_low = (uint32_t)took;
        out.ticks_high = (uint32_t)(took >> 32);
        if (transfer(SYS_WRITE, to, &out, sizeof out) != 0) {
            return 4;
        }
    }
    return 0;
}
