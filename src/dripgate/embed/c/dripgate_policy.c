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

#define AHEAD (1.0 / 8)
#define AHEAD_SAMPLES 512
#define RESERVE (1.0 / 32)
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

/* Slots are whole numbers in a double: no clock is too late for one. */
static void turn(dripgate_bucket *b, double slot)
{
    const double passed = slot - b->slot;
    if (passed > DRIPGATE_SLOTS) {
        memset(b->spent, 0, sizeof b->spent);
        b->total = 0;
    } else if (passed > 0) {
        const size_t gone = (size_t)passed, kept = DRIPGATE_SLOTS + 1 - gone;
        for (size_t i = 0; i < gone; ++i) {
            b->total -= b->spent[i];
        }
        memmove(b->spent, b->spent + gone, kept * sizeof b->spent[0]);
        memset(b->spent + kept, 0, gone * sizeof b->spent[0]);
    }
    b->slot = slot;
}

/* Once per clock: between, the tokens are what was taken out of them. */
static void fill(dripgate_bucket *b, double clock)
{
    if (!b->started) {
        b->started = 1;
        b->filled = NAN;
        b->tokens = (AHEAD + RESERVE) * b->amount;
    }
    if (isnan(clock) || clock == b->filled) {
        return;
    }
    const double slot = floor_divide(clock, b->period / DRIPGATE_SLOTS);
    if (slot != b->slot) {
        turn(b, slot);
    }
    if (!isnan(b->filled)) {
        b->tokens += b->amount * (clock - b->filled) / b->period;
    }
    /* What the window has no room for would only be spent in a lump when it has. */
    const double room = b->amount - b->total;
    b->tokens = b->tokens > room ? room : b->tokens;
    b->filled = clock;
}

static double cost(const dripgate_policy *p, const dripgate_bucket *b)
{
    return b->in_bytes ? (double)p->rules.bytes : 1.0;
}

/* What may be spent on the recent samples at their pace, ahead of time included. Below the reserve,
 * the income in the part that is left of it. */
static double payable(const dripgate_policy *p, const dripgate_bucket *b)
{
    const double saved = b->tokens - RESERVE * b->amount;
    if (saved < 0) {
        return b->tokens / RESERVE / b->period * p->seconds;
    }
    const double income = (b->amount + saved / SPEND) / b->period;
    const double most = AHEAD * b->amount, ahead = (most < saved ? most : saved) / AHEAD_SAMPLES;
    return income * p->seconds + ahead * p->samples;
}

static double share_of(dripgate_policy *p, int purse)
{
    double least = 1.0;
    for (int i = 0; i < p->rules.budgets; ++i) {
        dripgate_bucket *b = &p->buckets[purse][i];
        fill(b, p->clock);
        const double recent = b->in_bytes ? p->bytes : p->samples;
        const double share = recent != 0 ? payable(p, b) / recent : 1.0;
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
        if (needed > b->tokens || b->total + needed > b->amount) {
            return 0;
        }
        double recent = 0;
        for (int slot = DRIPGATE_SLOTS + 1 - BURST; slot <= DRIPGATE_SLOTS; ++slot) {
            recent += b->spent[slot];
        }
        if (recent != 0 && recent + needed > MOST_IN_A_BURST * b->amount) {
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
        b->total += cost(p, b);
        b->spent[DRIPGATE_SLOTS] += (uint32_t)cost(p, b);
    }
}

/* Share and class floors -----------------------------------------------------------------------*/

#define MOST_DEBT 3.0
#define FLOOR_GAIN 0.5
#define FLOOR_MOST 4.0
#define PART 0.3
#define STEP 0.02
#define REACH 1.0
#define LEAST 1e-12

typedef struct {
    double low, high;
} place;

/* The score's place among those remembered: anywhere in low ... high, left to chance. */
static place rank_of(const dripgate_policy *p, float score)
{
    int less = 0, equal = 0;
    for (int i = 0; i < p->ranked; ++i) {
        less += p->ranks[i] < score;
        equal += p->ranks[i] == score;
    }
    const double size = p->ranked + 1;
    return (place){less / size, (less + equal + 1) / size};
}

/* The probability that a rank is above bar. */
static double above(place rank, double bar)
{
    if (bar >= rank.high) {
        return 0.0;
    }
    return bar <= rank.low ? 1.0 : (rank.high - bar) / (rank.high - rank.low);
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
    if (target > 0.5) {
        return 0.02;
    }
    return target > 0.0125 ? 0.01 / target : 0.8;
}

static double bar_of(double debt, double target)
{
    if (target >= 1) {
        return 0.0;
    }
    const double push = debt * gain(target);
    if (push >= MOST_DEBT) {
        return 1.0;
    }
    const double bar = 1 - target * exp(-push);
    return bar > 0 ? bar : 0.0;
}

/* A budget takes the best of what comes, not of what the band lets through. 0: the band decides. */
static double ranked_share(const dripgate_policy *p)
{
    return p->rules.keep > 0 || p->rules.budgets == 0 ? p->rules.keep : DRIPGATE_KEEP_EXPECTED;
}

/* Whether the gate found it broken; where ranks decide, the world may have drifted there. */
static int alien(dripgate_policy *p, const dripgate_verdict *v)
{
    const int found = v->decision == DRIPGATE_QUARANTINE;
    const double low = DRIPGATE_QUALITY_LOW, quality = v->quality;
    if (!(ranked_share(p) > 0) || low < 0 || isnan(quality)) {
        return found;
    }
    const double value = log(quality > LEAST ? quality : LEAST);
    const double fixed = log(low > LEAST ? low : LEAST);
    const double bound = p->level < fixed ? p->level : fixed;
    if (value > bound - REACH) {
        const double level = p->level + STEP * (PART - (value < p->level));
        p->level = level < log(0.5) ? level : log(0.5);
    }
    return found && value < bound;
}

static void weigh(dripgate_policy *p, dripgate_verdict *v, double rate, int audited, double tie)
{
    const double keep = ranked_share(p);
    const double share = share_of(p, DRIPGATE_BEST);
    const double wanted = keep > 0 && keep < share ? keep : share;
    const double overall = keep > 0 ? keep : DRIPGATE_KEEP_EXPECTED;
    const double floor_share = p->rules.floor * (overall < share ? overall : share);
    const place rank = rank_of(p, v->score);
    const double bar = bar_of(p->debt, wanted);
    const double first = 1 - keep < bar ? 1 - keep : bar;
    const int inside = keep > 0 ? above(rank, first) > 0 : v->decision == DRIPGATE_KEEP;
    double chance = inside ? above(rank, bar) : 0.0;
    int otherwise =
        inside && share < (keep > 0 ? keep : 1.0) ? DRIPGATE_BUDGET : DRIPGATE_BAND;
    int reason = DRIPGATE_BAND;
    double *owed = &p->floors[v->predicted];
    if (floor_share != 0 && bar < 1 && chance == 0) {
        chance = above(rank, 1 - floor_share * exp(-FLOOR_GAIN * *owed));
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

/* Of samples only whole ones, so that none is lost. */
static double part_of(const dripgate_allowance *one, double share)
{
    return one->bytes ? one->amount * share : floor(one->amount * share);
}

static void start(dripgate_policy *p)
{
    static const float seeded[] = DRIPGATE_SEEDED_SCORES;
    p->clock = NAN;
    p->level = log(0.5);
    p->ranked = sizeof seeded / sizeof seeded[0];
    memcpy(p->ranks, seeded, sizeof seeded);
    for (int i = 0; i < p->rules.budgets; ++i) {
        const dripgate_allowance *one = &p->rules.budget[i];
        const double pause = one->period / DRIPGATE_SLOTS;
        const double audited = part_of(one, p->rules.audit > 0 ? AUDIT_PART : 0.0);
        const double aside = part_of(one, p->rules.quarantine > 0 ? QUARANTINE_PART : 0.0);
        const double parts[DRIPGATE_PURSES] = {one->amount - (audited + aside), audited, aside};
        p->pause = i == 0 || pause < p->pause ? pause : p->pause;
        for (int purse = 0; purse < DRIPGATE_PURSES; ++purse) {
            dripgate_bucket *b = &p->buckets[purse][i];
            b->amount = parts[purse];
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

static int alien(dripgate_policy *p, const dripgate_verdict *v)
{
    (void)p;
    return v->decision == DRIPGATE_QUARANTINE;
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
    if (alien(policy, verdict) || isnan(verdict->score)) {
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
