/* Mel power of PCM, frame by frame: the DFT that the gate's graph takes as one large matrix.
 *
 * A frame of even length is transformed as half as many complex numbers (Stockham's FFT for any
 * factors: no bit reversal, two buffers, no recursion), in scratch memory of the arena. */
#include "dripgate_spectrum.h"

#define HALF (DRIPGATE_WINDOW / 2)

typedef struct { float re, im; } complex_t;

/* exp(-2 pi i k / DRIPGATE_WINDOW), k below DRIPGATE_WINDOW; the table holds half of the circle. */
static complex_t turn_of(int32_t k)
{
    const float sign = k < HALF ? 1.0f : -1.0f;
    const float *turn = spectrum_turns[k < HALF ? k : k - HALF];
    const complex_t turned = {sign * turn[0], sign * turn[1]};
    return turned;
}

static complex_t times(complex_t a, complex_t b)
{
    const complex_t product = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return product;
}

static void butterfly4(const complex_t *a, complex_t *b)
{
    const complex_t s = {a[0].re + a[2].re, a[0].im + a[2].im};
    const complex_t d = {a[0].re - a[2].re, a[0].im - a[2].im};
    const complex_t t = {a[1].re + a[3].re, a[1].im + a[3].im};
    const complex_t u = {a[1].im - a[3].im, a[3].re - a[1].re}; /* -i (a1 - a3) */
    b[0].re = s.re + t.re, b[0].im = s.im + t.im;
    b[1].re = d.re + u.re, b[1].im = d.im + u.im;
    b[2].re = s.re - t.re, b[2].im = s.im - t.im;
    b[3].re = d.re - u.re, b[3].im = d.im - u.im;
}

static void butterfly(int32_t radix, const complex_t *a, complex_t *b)
{
    for (int32_t k = 0; k < radix; ++k) {
        b[k] = a[0];
        for (int32_t j = 1; j < radix; ++j) {
            const complex_t part = times(a[j], turn_of(j * k % radix * (DRIPGATE_WINDOW / radix)));
            b[k].re += part.re;
            b[k].im += part.im;
        }
    }
}

/* HALF complex numbers from one of the two buffers; the result's buffer is returned. */
static complex_t *transform(complex_t *x, complex_t *y)
{
    static const uint8_t factors[] = DRIPGATE_FACTORS;
    int32_t n = HALF, stride = 1;
    for (int32_t step = 0; step < (int32_t)sizeof factors; ++step) {
        const int32_t radix = factors[step], m = n / radix;
        for (int32_t p = 0; p < m; ++p) {
            for (int32_t q = 0; q < stride; ++q) {
                complex_t a[DRIPGATE_LARGEST_FACTOR], b[DRIPGATE_LARGEST_FACTOR];
                for (int32_t j = 0; j < radix; ++j) {
                    a[j] = x[q + stride * (p + m * j)];
                }
                if (radix == 4) {
                    butterfly4(a, b);
                } else {
                    butterfly(radix, a, b);
                }
                y[q + stride * radix * p] = b[0];
                for (int32_t k = 1; k < radix; ++k) {
                    const complex_t turn = turn_of(p * k * stride * 2);
                    y[q + stride * (radix * p + k)] = times(b[k], turn);
                }
            }
        }
        n = m;
        stride *= radix;
        complex_t *swap = x;
        x = y;
        y = swap;
    }
    return x;
}

/* power[k] of DFT bins 0 .. HALF, from the transform of the frame taken in pairs. */
static void powers(const complex_t *z, float *power)
{
    for (int32_t k = 0; k <= HALF; ++k) {
        const complex_t a = z[k % HALF], b = z[(HALF - k) % HALF];
        const complex_t even = {(a.re + b.re) / 2, (a.im - b.im) / 2};
        const complex_t odd = {(a.im + b.im) / 2, (b.re - a.re) / 2};
        const complex_t part = times(odd, turn_of(k));
        const float re = even.re + part.re, im = even.im + part.im;
        power[k] = re * re + im * im;
    }
}

void dripgate_spectrum(const int16_t *pcm, void *scratch, float *mel)
{
    complex_t *x = (complex_t *)scratch, *y = x + HALF + 1;
    for (int32_t frame = 0; frame < DRIPGATE_FRAMES; ++frame) {
        const int16_t *from = pcm + frame * DRIPGATE_HOP;
        for (int32_t i = 0; i < HALF; ++i) {
            x[i].re = (float)from[2 * i] * spectrum_window[2 * i];
            x[i].im = (float)from[2 * i + 1] * spectrum_window[2 * i + 1];
        }
        const complex_t *z = transform(x, y);
        float *power = (float *)(z == x ? y : x);
        powers(z, power);
        const float *weight = spectrum_weights;
        for (int32_t band = 0; band < DRIPGATE_BANDS; ++band) {
            float sum = 0;
            for (int32_t k = spectrum_bands[band][0]; k < spectrum_bands[band][1]; ++k) {
                sum += power[k] * *weight++;
            }
            mel[band * DRIPGATE_FRAMES + frame] = sum;
        }
    }
}
