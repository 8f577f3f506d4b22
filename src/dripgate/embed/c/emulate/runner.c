/* Decides samples from a file, through the debugger, and writes what came out: for QEMU.
 *
 * samples.bin: the samples. results.bin: per sample the struct below. SysTick counts time, which
 * QEMU makes of instructions with -icount shift=0 (one a nanosecond). */
#include "dripgate.h"

#include <string.h>

#include "semihosting.h"

#define STACK_WORDS 8192
#define PAINT 0xA5A5A5A5u

typedef struct {
    float logits[DRIPGATE_CLASSES];
    float score, quality;
    int32_t predicted, decision, reason;
    uint32_t ticks_low, ticks_high, stack;
} result;

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH];
static volatile uint32_t wraps;

void SysTick_Handler(void) { wraps += 1; }

void stop(int status)
{
    const uint32_t arguments[2] = {0x20026, (uint32_t)status};
    semihost(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}

static int open_file(const char *name, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, mode, (uint32_t)strlen(name)};
    return semihost(SYS_OPEN, arguments);
}

/* How many bytes were not transferred. */
static int transfer(int operation, int file, void *bytes, uint32_t size)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, size};
    return semihost(operation, arguments);
}

static uint64_t ticks(void)
{
    volatile uint32_t *const value = (volatile uint32_t *)0xE000E018u;
    uint32_t high, low;
    do {
        high = wraps;
        low = *value;
    } while (high != wraps);
    return (uint64_t)high << 24 | (0xFFFFFFu - low);
}

/* Paints the stack below, decides, and sees how far down the paint is gone. */
static __attribute__((noinline)) uint32_t decide(dripgate_verdict *verdict, uint64_t *took)
{
    uint32_t *const here = __builtin_frame_address(0);
    volatile uint32_t *const bottom = (volatile uint32_t *)here - STACK_WORDS;
    for (volatile uint32_t *word = bottom; word < (volatile uint32_t *)here - 64; ++word) {
        *word = PAINT;
    }
    const uint64_t before = ticks();
    dripgate_decide(sample, verdict);
    *took = ticks() - before;
    volatile uint32_t *word = bottom;
    while (*word == PAINT) {
        ++word;
    }
    return (uint32_t)((char *)here - (char *)word);
}

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
    *(volatile uint32_t *)0xE000E014u = 0xFFFFFFu; /* SysTick: reload, value, run from the core */
    *(volatile uint32_t *)0xE000E018u = 0;
    *(volatile uint32_t *)0xE000E010u = 7;
    while (transfer(SYS_READ, from, sample, sizeof sample) == 0) {
        dripgate_verdict verdict;
        uint64_t took;
        out.stack = decide(&verdict, &took);
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
