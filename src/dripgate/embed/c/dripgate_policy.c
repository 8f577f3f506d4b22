/* The arithmetic is that of dripgate.policy in Python, operation by operation, in double: compile it
 * without contraction to fused multiply-adds (-ffp-contract=off) to get the same bits. */
#include "dripgate.h"

#include <math.h>
#include <string.h>

#define GOLDEN 0x9E3779B97F4A7C15ull
#define PART_OF_KEEP 0.25   /* the audit's, at most */
#define MOST_CREDIT 100.0
#define HEAD_CREDIT 20.0

/* Chance: splitmix64 of the seed and the sample's number. */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void uniforms(const dripgate_policy *p, double *tie, double *coin)
{
    const uint64_t mixed = mix(mix(p->rules.seed * GOLDEN + GOLDEN) + p->number * GOLDEN);
    *tie = (double)(uint32_t)(mixed >> 32) * 0x1p-32;
    *coin = (double)(uint32_t)mixed * 0x1p-32;
}

static void give(dripgate_verdict *v, int decision, int reason, double propensity)
{
    v->decision = (uint8_t)decision;
    v->reason = (uint8_t)reason;
    v->propensity = propensity;
}

#if DRIPGATE_SHARE

/* Budgets --------------------------------------------------------------------------------------*/

#define HEAD (1.0 / 20)
#define SPEND (1.0 / 4)
#define BURST (DRIPGATE_SLOTS / 8)
#define MOST_IN_A_BURST (3.0 / 8)
#define NEW (1.0 / 256)
#define AUDIT_PART 0.1
#define QUARANTINE_PART 0.05

static void tick(dripgate_policy *p, double now)
{
    if (isfinite(now)) {
        const double before = isnan(p->clock) ? now : p->clock;
        p->clock = now > before ? now : before;
        const double passed = p->clock - before;
        p->seconds += passed < p->pause ? passed : p->pause;
    }
    p->seconds -= NEW * p->seconds;
    p->samples += 1 - NEW * p->samples;
    p->bytes += p->rules.bytes - NEW * p->bytes;
}

static void fill(dripgate_bucket *b, double clock)
{
    if (!b->started) {
        b->tokens = HEAD * b->amount;
    } else if (clock > b->filled) {
        const double tokens = b->tokens + b->amount * (clock - b->filled) / b->period;
        b->tokens = tokens < b->amount ? tokens : b->amount;
    }
    b->started = !isnan(clock);
    b->filled = clock;
}

/* Python's a // b for b > 0. */
static double floor_divide(double a, double b)
{
    double rest = fmod(a, b);
    double whole = (a - rest) / b;
    if (rest < 0) {
        whole -= 1;
    }
    const double down = floor(whole);
    return whole - down > 0.5 ? down + 1 : down;
}

static void turn(dripgate_bucket *b)
{
    const int64_t slot =
        (int64_t)floor_divide(b->started ? b->filled : 0.0, b->period / DRIPGATE_SLOTS);
    const int64_t passed = slot - b->slot;
    if (passed > DRIPGATE_SLOTS) {
        memset(b->spent, 0, sizeof b->spent);
    } else if (passed > 0) {
        const size_t kept = (size_t)(DRIPGATE_SLOTS + 1 - passed);
        memmove(b->spent, b->spent + passed, kept * sizeof b->spent[0]);
        memset(b->spent + kept, 0, (size_t)passed * sizeof b->spent[0]);
    }
    b->slot = slot;
}

static double cost(const dripgate_policy *p, const dripgate_bucket *b)
{
    return b->in_bytes ? (double)p->rules.bytes : 1.0;
}

static double share_of(dripgate_policy *p, int purse)
{
    double least = 1.0;
    for (int i = 0; i < p->rules.budgets; ++i) {
        dripgate_bucket *b = &p->buckets[purse][i];
        fill(b, p->clock);
        const double income = b->amount / b->period + b->tokens / (SPEND * b->period);
        const double recent = b->in_bytes ? p->bytes : p->samples;
        const double share = recent != 0 ? income * p->seconds / recent : 1.0;
        least = share < least ? share : least;
    }
    return least;
}

static int affords(dripgate_policy *p, int purse)
{
    for (int i = 0; i < p->rules.budgets; ++i) {
        dripgate_bucket *b = &p->buckets[purse][i];
        const double needed = cost(p, b);
        fill(b, p->clock);
        if (needed > b->tokens) {
            return 0;
        }
        turn(b);
        double all = 0, recent = 0;
        for (int slot = 0; slot <= DRIPGATE_SLOTS; ++slot) {
            all += b->spent[slot];
            recent += slot > DRIPGATE_SLOTS - BURST ? b->spent[slot] : 0;
        }
        if ((recent != 0 && recent + needed > MOST_IN_A_BURST * b->amount)
            || all + needed > b->amount) {
            return 0;
        }
    }
    return 1;
}

static void spend(dripgate_policy *p, int purse)
{
    for (int i = 0; i < p->rules.budgets; ++i) {
        dripgate_bucket *b = &p->buckets[purse][i];
        b->tokens -= cost(p, b);
        b->spent[DRIPGATE_SLOTS] += (uint32_t)cost(p, b);
    }
}

/* Share and class floors -----------------------------------------------------------------------*/

#define MOST_DEBT 3.0
#define FLOOR_GAIN 0.5
#define FLOOR_MOST 4.0

/* The probability that the score's rank among those remembered is above bar. */
static double above(const dripgate_policy *p, float score, double bar)
{
    int less = 0, equal = 0;
    for (int i = 0; i < p->ranked; ++i) {
        less += p->ranks[i] < score;
        equal += p->ranks[i] == score;
    }
    const double size = p->ranked + 1;
    const double low = less / size, high = (less + equal + 1) / size;
    if (bar >= high) {
        return 0.0;
    }
    return bar <= low ? 1.0 : (high - bar) / (high - low);
}

static void remember(dripgate_policy *p, float score)
{
    if (p->ranked < DRIPGATE_RANKS) {
        p->ranks[p->ranked++] = score;
    } else {
        p->ranks[p->oldest] = score;
        p->oldest = (uint16_t)((p->oldest + 1) % DRIPGATE_RANKS);
    }
}

static double gain(double target)
{
    const double wanted = 0.005 / (target > 1e-9 ? target : 1e-9);
    const double least = wanted > 0.02 ? wanted : 0.02;
    return least < 0.4 ? least : 0.4;
}

static double bar_of(double debt, double target)
{
    if (target >= 1) {
        return 0.0;
    }
    const double strength = gain(target);
    if (debt * strength >= MOST_DEBT) {
        return 1.0;
    }
    const double share = target * exp(-strength * debt);
    return 1 - (share < 1.0 ? share : 1.0);
}

static void weigh(dripgate_policy *p, dripgate_verdict *v, double rate, int audited, double tie)
{
    const double keep = p->rules.keep;
    const double payable = share_of(p, DRIPGATE_BEST);
    const double wanted = keep > 0 && keep < payable ? keep : payable;
    const double overall = keep > 0 ? keep : DRIPGATE_KEEP_EXPECTED;
    const double floor_share = p->rules.floor * (overall < payable ? overall : payable);
    const double bar = bar_of(p->debt, wanted);
    const double first = 1 - keep < bar ? 1 - keep : bar;
    const int inside = keep > 0 ? above(p, v->score, first) > 0 : v->decision == DRIPGATE_KEEP;
    double chance = inside ? above(p, v->score, bar) : 0.0;
    int otherwise =
        inside && payable < (keep > 0 ? keep : 1.0) ? DRIPGATE_BUDGET : DRIPGATE_BAND;
    int reason = DRIPGATE_BAND;
    double *owed = &p->floors[v->predicted];
    if (floor_share != 0 && bar < 1 && chance == 0) {
        chance = above(p, v->score, 1 - floor_share * exp(-FLOOR_GAIN * *owed));
        reason = DRIPGATE_FLOOR;
    }
    if (chance != 0 && !affords(p, DRIPGATE_BEST)) {
        chance = 0.0;
        otherwise = DRIPGATE_BUDGET;
    }
    const int chosen = tie < chance;
    const int kept = chosen || audited;
    if (kept) {
        spend(p, chosen ? DRIPGATE_BEST : DRIPGATE_AUDITED);
    }
    remember(p, v->score);
    const double debt = p->debt + kept - wanted, least = -MOST_DEBT / gain(wanted);
    p->debt = debt > least ? debt : least;
    if (floor_share != 0) {
        const double more = *owed + kept - floor_share;
        const double most = more < FLOOR_MOST ? more : FLOOR_MOST;
        const double bottom = log(floor_share) / FLOOR_GAIN;
        *owed = most > bottom ? most : bottom;
    }
    give(v, kept ? DRIPGATE_KEEP : DRIPGATE_DROP,
         chosen ? reason : audited ? DRIPGATE_AUDIT : otherwise,
         chance + (1 - chance) * rate);
}

static double audit_rate(dripgate_policy *p)
{
    const double most = PART_OF_KEEP * p->rules.keep;
    const double rate = p->rules.keep > 0 && most < p->rules.audit ? most : p->rules.audit;
    if (p->rules.budgets == 0) {
        return rate;
    }
    if (rate == 0 || !affords(p, DRIPGATE_AUDITED)) {
        return 0.0;
    }
    const double share = share_of(p, DRIPGATE_AUDITED);
    return rate < share ? rate : share;
}

static void start(dripgate_policy *p)
{
    static const float seeded[] = DRIPGATE_SEEDED_SCORES;
    const double audit = p->rules.audit > 0 ? AUDIT_PART : 0.0;
    const double aside = p->rules.quarantine > 0 ? QUARANTINE_PART : 0.0;
    const double parts[DRIPGATE_PURSES] = {1 - audit - aside, audit, aside};
    p->clock = NAN;
    p->ranked = sizeof seeded / sizeof seeded[0];
    memcpy(p->ranks, seeded, sizeof seeded);
    for (int i = 0; i < p->rules.budgets; ++i) {
        const dripgate_allowance *one = &p->rules.budget[i];
        const double pause = one->period / DRIPGATE_SLOTS;
        p->pause = i == 0 || pause < p->pause ? pause : p->pause;
        for (int purse = 0; purse < DRIPGATE_PURSES; ++purse) {
            dripgate_bucket *b = &p->buckets[purse][i];
            b->amount = one->amount * parts[purse];
            b->period = one->period;
            b->in_bytes = one->bytes;
        }
    }
}

#else

static void weigh(dripgate_policy *p, dripgate_verdict *v, double rate, int audited, double tie)
{
    const int chosen = v->decision == DRIPGATE_KEEP;
    (void)p, (void)tie;
    give(v, chosen || audited ? DRIPGATE_KEEP : DRIPGATE_DROP,
         audited && !chosen ? DRIPGATE_AUDIT : DRIPGATE_BAND, chosen ? 1.0 : rate);
}

static double audit_rate(dripgate_policy *p) { return p->rules.audit; }
static void start(dripgate_policy *p) { (void)p; }
static int affords(dripgate_policy *p, int purse) { (void)p, (void)purse; return 1; }
static void spend(dripgate_policy *p, int purse) { (void)p, (void)purse; }
enum { DRIPGATE_BEST, DRIPGATE_AUDITED, DRIPGATE_ASIDE };

#endif

/* Broken or alien input: quarantine while there is room, never training by itself. */
static void set_aside(dripgate_policy *p, dripgate_verdict *v, double rate, int audited)
{
    if (p->credit >= 1 && affords(p, DRIPGATE_ASIDE)) {
        p->credit -= 1;
        spend(p, DRIPGATE_ASIDE);
        give(v, DRIPGATE_QUARANTINE, DRIPGATE_QUALITY, 1.0);
    } else if (audited) {
        spend(p, DRIPGATE_AUDITED);
        give(v, DRIPGATE_QUARANTINE, DRIPGATE_AUDIT, rate);
    } else {
        give(v, DRIPGATE_DROP, DRIPGATE_QUALITY, rate);
    }
}

static int share_or_none(double value) { return value >= 0 && value <= 1; }

int dripgate_policy_init(dripgate_policy *policy, const dripgate_rules *rules)
{
    if (!share_or_none(rules->keep) || !share_or_none(rules->audit)
        || !share_or_none(rules->floor) || !share_or_none(rules->quarantine)
        || rules->budgets < 0 || rules->budgets > DRIPGATE_BUDGETS) {
        return -1;
    }
    for (int i = 0; i < rules->budgets; ++i) {
        const dripgate_allowance *one = &rules->budget[i];
        if (!(one->amount > 0 && one->period > 0 && isfinite(one->amount + one->period))) {
            return -1;
        }
    }
    if (!DRIPGATE_SHARE && (rules->keep > 0 || rules->floor > 0 || rules->budgets > 0)) {
        return -1;
    }
    memset(policy, 0, sizeof *policy);
    policy->rules = *rules;
    policy->credit = HEAD_CREDIT;
    start(policy);
    return 0;
}

void dripgate_policy_decide(dripgate_policy *policy, double now, dripgate_verdict *verdict)
{
    double tie, coin;
    uniforms(policy, &tie, &coin);
    policy->number += 1;
#if DRIPGATE_SHARE
    if (policy->rules.budgets > 0) {
        tick(policy, now);
    }
#else
    (void)now;
#endif
    policy->credit += policy->rules.quarantine;
    policy->credit = policy->credit < MOST_CREDIT ? policy->credit : MOST_CREDIT;
    const double rate = audit_rate(policy);
    const int audited = coin < rate;
    if (verdict->decision == DRIPGATE_QUARANTINE || isnan(verdict->score)) {
        set_aside(policy, verdict, rate, audited);
    } else {
        weigh(policy, verdict, rate, audited, tie);
    }
}

extern void (*dripgate_last_word)(dripgate_policy *, double, dripgate_verdict *);
extern dripgate_policy *dripgate_last_word_state;

void dripgate_resume(dripgate_policy *state)
{
    dripgate_last_word_state = state;
    dripgate_last_word = dripgate_policy_decide;
}

int dripgate_init(dripgate_policy *state, const dripgate_rules *rules)
{
    if (dripgate_policy_init(state, rules) != 0) {
        return -1;
    }
    dripgate_resume(state);
    return 0;
}
