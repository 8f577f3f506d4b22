/* A firmware without a board: the self-test, then one decision, said through the debugger. */
#include "dripgate.h"

#include "semihosting.h"

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH]; /* here a camera's or microphone's buffer */
static dripgate_policy policy;

void stop(int status)
{
    const uint32_t arguments[2] = {0x20026 /* the application ended */, (uint32_t)status};
    semihost(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}

int main(void)
{
    static const char *const classes[] = DRIPGATE_CLASS_NAMES;
    static const char *const decisions[] = {"drop", "keep", "quarantine"};
    const dripgate_rules rules = {.keep = 0.1, .audit = 0.01, .quarantine = 0.01, .seed = 1};
    dripgate_verdict verdict;

    if (dripgate_selftest() != 0) {
        say("self-test failed\n");
        return 1;
    }
    say("self-test passed\n");
    if (dripgate_init(&policy, &rules) != 0) {
        return 1;
    }
    dripgate_decide(sample, &verdict);
    say(decisions[verdict.decision]);
    say(": ");
    say(classes[verdict.predicted]);
    say("\n");
    return 0;
}
