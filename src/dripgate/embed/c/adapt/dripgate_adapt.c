#include "dripgate_adapt.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "dripgate.h"
#include "dripgate_head.h"

enum { UNLABELLED = -1, EMPTY = -2 };
#define MOST_WEIGHT 10.0f
#define LARGEST_HALF 65504.0f

const float *dripgate_last_features(void);

static dripgate_learner *learner;
static dripgate_storage kept;
static dripgate_features packed;
static float features[DRIPGATE_FEATURES];
static float rows[DRIPGATE_ROWS];

/* 16-bit floats ------------------------------------------------------------------------------- */

static float from_half(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 31u, fraction = half & 1023u;
    uint32_t bits;
    float value;
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The nearest, ties to even; what is too large becomes the largest. */
static uint16_t to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const float size = fabsf(value);
    if (size >= LARGEST_HALF) {
        return sign | 0x7BFFu;
    }
    if (size < 0x1p-14f) { /* in units of 2^-24; adding 2^23 rounds to an integer */
        const volatile float whole = size * 0x1p24f + 0x1p23f;
        return sign | (uint16_t)(whole - 0x1p23f);
    }
    bits &= 0x7FFFFFFFu;
    bits += 0xFFFu + (bits >> 13 & 1u);
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}

static void unpack(const uint16_t *from)
{
    for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
        features[d] = from_half(from[d]);
    }
}

/* The ring ------------------------------------------------------------------------------------ */

static int read_ram(void *context, uint32_t slot, dripgate_features *out)
{
    memcpy(out, (dripgate_features *)context + slot, sizeof *out);
    return 0;
}

static int write_ram(void *context, uint32_t slot, const dripgate_features *in)
{
    memcpy((dripgate_features *)context + slot, in, sizeof *in);
    return 0;
}

dripgate_storage dripgate_ram(dripgate_features *ring)
{
    const dripgate_storage storage = {read_ram, write_ram, ring, 1};
    return storage;
}

static int usable(const dripgate_storage *storage)
{
    return storage->page > 0 && DRIPGATE_RING % storage->page == 0;
}

int dripgate_adapt(dripgate_learner *state, const dripgate_storage *storage)
{
    if (!usable(storage)) {
        return -1;
    }
    memset(state, 0, sizeof *state);
    state->gate = DRIPGATE_GATE_NUMBER;
    memcpy(state->head, dripgate_deployed, sizeof state->head);
    for (int slot = 0; slot < DRIPGATE_RING; ++slot) {
        state->label[slot] = EMPTY;
    }
    return dripgate_adapt_resume(state, storage);
}

int dripgate_adapt_resume(dripgate_learner *state, const dripgate_storage *storage)
{
    int whole = usable(storage) && state->gate == DRIPGATE_GATE_NUMBER
        && state->next < DRIPGATE_RING && state->cursor < DRIPGATE_RING
        && state->replay < (DRIPGATE_MEMORY > 0 ? DRIPGATE_MEMORY : 1);
    for (int i = 0; whole && i < DRIPGATE_HEAD; ++i) {
        whole = isfinite(state->head[i]) != 0;
    }
    for (int slot = 0; whole && slot < DRIPGATE_RING; ++slot) {
        whole = state->label[slot] >= EMPTY && state->label[slot] < DRIPGATE_CLASSES
            && (state->label[slot] == EMPTY
                || (state->weight[slot] >= 1 && state->weight[slot] <= MOST_WEIGHT));
    }
    learner = whole ? state : NULL;
    dripgate_head = whole ? state->head : dripgate_deployed;
    kept = *storage;
    return whole ? 0 : -1;
}

int dripgate_remember(uint32_t id, double propensity)
{
    const float *last = dripgate_last_features();
    if (learner == NULL) {
        return -1;
    }
    for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
        if (!isfinite(last[d])) {
            return -1;
        }
        packed[d] = to_half(last[d]);
    }
    const uint32_t slot = learner->next;
    if (slot % kept.page == 0) {
        for (uint32_t i = slot; i < slot + kept.page; ++i) {
            learner->label[i] = EMPTY;
        }
    }
    learner->label[slot] = EMPTY;
    learner->next = (slot + 1) % DRIPGATE_RING;
    if (kept.write(kept.context, slot, (const dripgate_features *)&packed) != 0) {
        return -1;
    }
    learner->id[slot] = id;
    learner->weight[slot] = !(propensity > 0 && propensity < 1) ? 1.0f
        : propensity * MOST_WEIGHT <= 1 ? MOST_WEIGHT : (float)(1 / propensity);
    learner->label[slot] = UNLABELLED;
    return 0;
}

/* The slot of the latest of that id, or DRIPGATE_RING where there is none (any more). */
static uint32_t slot_of(uint32_t id)
{
    for (uint32_t back = 1; back <= DRIPGATE_RING; ++back) {
        const uint32_t slot = (learner->next + DRIPGATE_RING - back) % DRIPGATE_RING;
        if (learner->label[slot] != EMPTY && learner->id[slot] == id) {
            return slot;
        }
    }
    return DRIPGATE_RING;
}

/* Whether the features of a slot could be read and are numbers (erased flash is not); if not, it is
 * forgotten: one NaN would spoil the head for good. */
static int fetched(uint32_t slot)
{
    int whole = kept.read(kept.context, slot, &packed) == 0;
    for (int d = 0; whole && d < DRIPGATE_FEATURES; ++d) {
        whole = (packed[d] & 0x7C00u) != 0x7C00u;
    }
    if (!whole) {
        learner->label[slot] = EMPTY;
        return 0;
    }
    unpack(packed);
    return 1;
}

/* The head ------------------------------------------------------------------------------------ */

/* A number for each row, from the features. */
static void infer(const float *head)
{
    const float *bias = head + DRIPGATE_ROWS * DRIPGATE_FEATURES;
    for (int row = 0; row < DRIPGATE_ROWS; ++row) {
        float logit = bias[row];
        for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
            logit += head[DRIPGATE_WEIGHT_AT(row, d)] * features[d];
        }
        rows[row] = logit;
    }
}

static int right(const float *head, int label)
{
    infer(head);
#if DRIPGATE_ROWS == 1
    return label == (rows[0] > 0);
#else
    int best = 0;
    for (int row = 1; row < DRIPGATE_ROWS; ++row) {
        best = rows[row] > rows[best] ? row : best;
    }
    return label == best;
#endif
}

int dripgate_label(uint32_t id, int label)
{
    if (learner == NULL || label < 0 || label >= DRIPGATE_CLASSES) {
        return -1;
    }
    const uint32_t slot = slot_of(id);
    if (slot == DRIPGATE_RING || !fetched(slot)) {
        return -1;
    }
    if (learner->label[slot] == UNLABELLED) { /* neither head has learned from it */
        learner->judged += 1;
        learner->right += (uint32_t)right(learner->head, label);
        learner->deployed_right += (uint32_t)right(dripgate_deployed, label);
    }
    learner->label[slot] = (int16_t)label;
    return 0;
}

/* Learning ------------------------------------------------------------------------------------ */

/* What infer gave becomes probability minus target. */
static void to_errors(int label)
{
#if DRIPGATE_SOFTMAX
    float most = rows[0], sum = 0;
    for (int row = 1; row < DRIPGATE_ROWS; ++row) {
        most = rows[row] > most ? rows[row] : most;
    }
    for (int row = 0; row < DRIPGATE_ROWS; ++row) {
        rows[row] = expf(rows[row] - most);
        sum += rows[row];
    }
    for (int row = 0; row < DRIPGATE_ROWS; ++row) {
        rows[row] /= sum;
    }
#else
    for (int row = 0; row < DRIPGATE_ROWS; ++row) {
        rows[row] = 1 / (1 + expf(-rows[row]));
    }
#endif
#if DRIPGATE_ROWS == 1
    rows[0] -= label == 1 ? 1.0f : 0.0f;
#else
    rows[label] -= 1;
#endif
}

/* One step away from the error, of bounded length, and a little towards the deployed head. */
static void step(float *head, int label, float weight, float pull)
{
    float size = 0;
    for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
        size += features[d] * features[d];
    }
    const float inverse = 1 / DRIPGATE_FEATURE_SQUARE;
    const float length = DRIPGATE_LEARN_RATE * weight / (1 + inverse * size);
    infer(head);
    to_errors(label);
    for (int row = 0; row < DRIPGATE_ROWS; ++row) {
        const float by = length * inverse * rows[row];
        for (int d = 0; d < DRIPGATE_FEATURES; ++d) {
            const int at = DRIPGATE_WEIGHT_AT(row, d);
            head[at] -= by * features[d] + pull * (head[at] - dripgate_deployed[at]);
        }
        const int at = DRIPGATE_ROWS * DRIPGATE_FEATURES + row;
        head[at] -= length * rows[row] + pull * (head[at] - dripgate_deployed[at]);
    }
}

/* The next labelled slot at or after the cursor, or DRIPGATE_RING where there is none. */
static uint32_t next_labelled(void)
{
    for (uint32_t ahead = 0; ahead < DRIPGATE_RING; ++ahead) {
        const uint32_t slot = (learner->cursor + ahead) % DRIPGATE_RING;
        if (learner->label[slot] >= 0) {
            return slot;
        }
    }
    return DRIPGATE_RING;
}

static float mean_weight(void)
{
    float sum = 0;
    int count = 0;
    for (int slot = 0; slot < DRIPGATE_RING; ++slot) {
        if (learner->label[slot] >= 0) {
            sum += learner->weight[slot];
            count += 1;
        }
    }
    return count > 0 ? sum / (float)count : 1;
}

int dripgate_learn(void)
{
    int learned = 0;
    if (learner == NULL) {
        return 0;
    }
    const float mean = mean_weight();
    for (int i = 0; i < DRIPGATE_LEARN_STEPS; ++i) {
        const uint32_t slot = next_labelled();
        if (slot == DRIPGATE_RING) {
            break;
        }
        learner->cursor = (slot + 1) % DRIPGATE_RING;
        if (!fetched(slot)) {
            continue;
        }
        step(learner->head, learner->label[slot], learner->weight[slot] / mean,
             DRIPGATE_LEARN_PULL);
        learned += 1;
#if DRIPGATE_MEMORY > 0
        unpack(dripgate_memory[learner->replay]);
        step(learner->head, dripgate_memory_class[learner->replay], 1, 0);
        learner->replay = (learner->replay + 1) % DRIPGATE_MEMORY;
#endif
    }
    return learned;
}

void dripgate_unlearn(void)
{
    if (learner != NULL) {
        memcpy(learner->head, dripgate_deployed, sizeof learner->head);
        learner->judged = learner->right = learner->deployed_right = 0;
    }
}
