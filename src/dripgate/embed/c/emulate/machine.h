/* What the firmware that QEMU runs has in common: files through the debugger, instructions, stack.
 *
 * SysTick counts time, which QEMU makes of instructions with -icount shift=0 (one a nanosecond). */
#ifndef MACHINE_H
#define MACHINE_H

#include "dripgate.h"

#include <string.h>

#include "semihosting.h"

#define STACK_WORDS 8192
#define PAINT 0xA5A5A5A5u

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

static void count_instructions(void)
{
    *(volatile uint32_t *)0xE000E014u = 0xFFFFFFu; /* SysTick: reload, value, run from the core */
    *(volatile uint32_t *)0xE000E018u = 0;
    *(volatile uint32_t *)0xE000E010u = 7;
}

/* Paints the stack below, does the work, and sees how far down the paint is gone: in bytes. */
static __attribute__((noinline)) uint32_t watched(void (*work)(void), uint64_t *took)
{
    uint32_t *const here = __builtin_frame_address(0);
    volatile uint32_t *const bottom = (volatile uint32_t *)here - STACK_WORDS;
    for (volatile uint32_t *word = bottom; word < (volatile uint32_t *)here - 64; ++word) {
        *word = PAINT;
    }
    const uint64_t before = ticks();
    work();
    *took = ticks() - before;
    volatile uint32_t *word = bottom;
    while (*word == PAINT) {
        ++word;
    }
    return (uint32_t)((char *)here - (char *)word);
}

#endif
