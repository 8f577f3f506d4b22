/* The policy: what a device keeps of what the gate finds worth keeping.
 *
 * The same decisions as dripgate.policy in Python with duplicates=0, from the same seed. What does
 * not fit is left out: near-duplicates (4 kB) and the drift alarm.
 */
#ifndef DRIPGATE_POLICY_H
#define DRIPGATE_POLICY_H

#include <stdint.h>

#include "dripgate_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 1: share, budgets and class floors, which rank each score among the last 512 (2 kB of RAM).
 * 0: the gate's band, the audit and the bound on quarantine alone. */
#ifndef DRIPGATE_SHARE
#define DRIPGATE_SHARE 1
#endif
/* Budgets that may be asked for at once; 1 kB of RAM each. */
#ifndef DRIPGATE_BUDGETS
#define DRIPGATE_BUDGETS 1
#endif

enum { DRIPGATE_DROP = 0, DRIPGATE_KEEP = 1, DRIPGATE_QUARANTINE = 2 };
enum { DRIPGATE_BAND = 0, DRIPGATE_QUALITY = 1, DRIPGATE_BUDGET = 2, DRIPGATE_FLOOR = 3,
       DRIPGATE_AUDIT = 4 };

typedef struct {
    int16_t predicted;  /* class, an index into DRIPGATE_CLASS_NAMES */
    uint8_t decision;   /* DRIPGATE_DROP, _KEEP or _QUARANTINE */
    uint8_t reason;     /* DRIPGATE_BAND, _QUALITY, _BUDGET, _FLOOR or _AUDIT */
    float score;        /* higher is more worth keeping */
    float quality;      /* 0 ... 1: how like the calibration samples the input is; low is alien */
    double propensity;  /* probability with which this sample is stored; keep it with the sample */
} dripgate_verdict;

/* At most amount samples, or bytes where bytes is not 0, in any period of so many seconds. */
typedef struct {
    double amount;
    double period;
    int bytes;
} dripgate_allowance;

typedef struct {
    double keep;         /* share of the stream to keep; 0 leaves it to the gate's band */
    double audit;        /* share kept whatever the score, such as 0.01 */
    double floor;        /* part of the overall share that each class keeps of its own, 0.25 */
    double quarantine;   /* largest share that may go to quarantine, such as 0.01 */
    uint64_t seed;       /* of all chance */
    uint32_t bytes;      /* that one stored sample takes, for budgets in bytes */
    int budgets;         /* how many of the following */
    dripgate_allowance budget[DRIPGATE_BUDGETS > 0 ? DRIPGATE_BUDGETS : 1];
} dripgate_rules;

#if DRIPGATE_SHARE
#define DRIPGATE_RANKS 512
#define DRIPGATE_SLOTS 64

typedef struct {
    double amount, period, tokens, filled, total, slot;
    int in_bytes, started;
    uint32_t spent[DRIPGATE_SLOTS + 1];
} dripgate_bucket;

enum { DRIPGATE_BEST, DRIPGATE_AUDITED, DRIPGATE_ASIDE, DRIPGATE_PURSES };
#endif

/* All that is remembered. A plain struct: keep it in retained memory to go on after a sleep. */
typedef struct {
    dripgate_rules rules;
    uint64_t number;    /* samples seen */
    double credit;      /* of quarantine */
#if DRIPGATE_SHARE
    double pause, clock, seconds, samples, bytes;
    double level;                         /* of quality, as usual lately: its logarithm */
    double debt;                          /* of the share */
    double floors[DRIPGATE_CLASSES];      /* debts, one per class */
    float ranks[DRIPGATE_RANKS];          /* the last scores, a ring */
    uint16_t ranked, oldest;
    dripgate_bucket buckets[DRIPGATE_PURSES][DRIPGATE_BUDGETS > 0 ? DRIPGATE_BUDGETS : 1];
#endif
} dripgate_policy;

/* 0, or -1 where rules are out of range or ask for what was not compiled in. */
int dripgate_policy_init(dripgate_policy *policy, const dripgate_rules *rules);

/* Turns the gate's verdict into the policy's; now is in seconds. */
void dripgate_policy_decide(dripgate_policy *policy, double now, dripgate_verdict *verdict);

#ifdef __cplusplus
}
#endif
#endif
