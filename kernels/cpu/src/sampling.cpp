// One token a row, or what its distribution is once all settings have acted.
#include "sampling.h"

using namespace infer;

namespace {

// -- drawing --------------------------------------------------------------------------------------------------------
struct Settings {
    float temperature;
    int64_t top_k;
    float top_p;
    float min_p;
    double uniform;

    bool by_k(int64_t vocabulary) const { return top_k > 0 && top_k < vocabulary; }
    bool by_p() const { return top_p < 1; }
    bool by_min() const { return min_p > 0; }
    bool narrows(int64_t vocabulary) const { return by_k(vocabulary) || by_p() || by_min(); }
};

// The largest float32 that is surely not above `bound`.
float rounded_down(double bound) { return bound > -FLT_MAX ? std::nextafter((float)bound, -INF) : -FLT_MAX; }

// Which rows change before they are drawn from, and how; null pointers where none does.
struct Changes {
    const int64_t *row_start, *token;
    const float *bias, *repetition, *subtract;
    const int64_t *mask_row;
    const int32_t *mask;
    int64_t mask_words;

    int64_t first(int64_t r) const { return row_start ? row_start[r] : 0; }
    int64_t count(int64_t r) const { return row_start ? row_start[r + 1] - row_start[r] : 0; }
    const int32_t *bits(int64_t r) const { return mask_row && mask_row[r] >= 0 ? mask + mask_row[r] * mask_words : nullptr; }
    bool any(int64_t r) const { return count(r) || bits(r); }
};

// The row with its changes; nothing stays of the logits of masked tokens.
template <class T> Row<float> changed(const T *logits, int64_t vocabulary, const Changes &changes, int64_t r, Scratch &scratch) {
    float *x = scratch.changed;
    const int32_t *bits = changes.bits(r);
    f32x16 poison = {};
    over_row(vocabulary, [&](int64_t i, int n) {
        f32x16 v = load_n(logits + i, n);
        poison += v * 0.0f;
        if (bits) v = where_set((uint32_t)bits[i / 32] >> i % 32, v, splat(-INF));
        store_n(x + i, v, n);
    });
    const int64_t first = changes.first(r);
    for (int64_t i = first; i < first + changes.count(r); i++) {
        float &value = x[changes.token[i]];
        if (value == -INF) continue;
        value += changes.bias[i];
        value = value > 0 ? value / changes.repetition[i] : value * changes.repetition[i];
        // A tiny repetition penalty can overflow; an infinite best logit would make the others' weights NaN.
        value = changes.subtract[i] == INF ? -INF : std::min(value - changes.subtract[i], FLT_MAX);
    }
    Row<float> row = scan((const float *)x, vocabulary, scratch);
    row.finite = reduce_add(poison) == 0;
    return row;
}

// Lists the tokens that min_p, top_k and top_p leave, in order, with their weights (0 where min_p drops one); returns how many.
// At least one of the three is on, and a token is left. Tokens may be missing that are more than `distance` temperatures below the best.
template <class T> int64_t narrow(const Row<T> &row, const Settings &s, double distance, Scratch &scratch) {
    const float inverse = 1.0f / s.temperature;
    const bool by_k = s.by_k(row.vocabulary), by_p = s.by_p(), by_min = s.by_min();
    auto weigh = [&](f32x16 v) { return vexp((v - row.highest) * inverse); };

    // A bound in units of temperature below the highest, with room for rounding.
    double total = 0;
    if (by_min) distance = std::min(distance, -log((double)s.min_p) * 1.0001 + 1e-3);
    if (by_p && !by_k) {
        for (int64_t block = 0; block < row.blocks(); block++) {
            Sum sum;
            row.over_block(block, [&](int64_t, f32x16 v) {
                f32x16 w = weigh(v);
                sum.add(select(w >= s.min_p, w, f32x16{}));
            });
            total += sum.total();
        }
        // All tokens that weigh less than this weigh less than the share top_p drops, even together.
        double negligible = (1 - (double)s.top_p) * total / row.vocabulary;
        distance = std::min(distance, -log(negligible) * 1.0001 + 1e-3);
    }
    float bound = rounded_down(row.highest - distance * s.temperature);
    if (by_k) bound = std::max(bound, kth_bound(row, s.top_k, scratch));

    int64_t n = collect(row, bound, scratch);
    auto keep_from = [&](float least) {
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            const float x = scratch.x[i];
            scratch.x[kept] = x;
            scratch.weight[kept] = scratch.weight[i];
            scratch.id[kept] = scratch.id[i];
            kept += x >= least;
        }
        n = kept;
    };
    if (by_k && n > s.top_k) {
        std::fill(scratch.weight, scratch.weight + n, 1.0f);
        keep_from(run_end(scratch.x, scratch.weight, n, (double)s.top_k, scratch));
    }
    Sum sum;
    over_row(n, [&](int64_t i, int count) {
        f32x16 w = weigh(padded(load_n(scratch.x + i, count), count));
        w = select(w >= s.min_p, w, f32x16{});
        sum.add(w);
        store_n(scratch.weight + i, w, count);
    });
    if (by_p) {
        if (by_k) total = sum.total();
        keep_from(run_end(scratch.x, scratch.weight, n, s.top_p * total, scratch));
    }
    return n;
}

template <class T> int64_t draw(const Row<T> &row, const Settings &s, Scratch &scratch) {
    if (!s.narrows(row.vocabulary)) {
        const float inverse = 1.0f / s.temperature;
        return locate(row.vocabulary, s.uniform, scratch.sums,
                      [&](int64_t i, int n) { return vexp((padded(load_n(row.logits + i, n), n) - row.highest) * inverse); });
    }
    const int64_t n = narrow(row, s, LARGEST_EXPONENT, scratch);
    return scratch.id[locate(n, s.uniform, scratch.sums, [&](int64_t i, int count) { return load_n(scratch.weight + i, count); })];
}

// -1 where no token is left.
template <class T> int64_t choose(const Row<T> &row, const Settings &settings, Scratch &scratch) {
    if (!row.finite) return 0;
    if (row.highest == -INF) return -1;
    return settings.temperature > 0 ? draw(row, settings, scratch) : argmax(row, scratch);
}

// The logits that a draw is made from: divided by the temperature, -inf for tokens that cannot be drawn.
template <class T> void process(const Row<T> &row, const Settings &s, float *out, Scratch &scratch) {
    const float inverse = s.temperature > 0 ? 1.0f / s.temperature : 1.0f;
    if (s.temperature > 0 && s.narrows(row.vocabulary) && row.finite && row.highest > -INF) {
        const int64_t n = narrow(row, s, INF, scratch);
        std::fill(out, out + row.vocabulary, -INF);
        for (int64_t i = 0; i < n; i++)
            if (!s.by_min() || scratch.weight[i] > 0) out[scratch.id[i]] = std::min(scratch.x[i] * inverse, FLT_MAX);
    } else {
        over_row(row.vocabulary, [&](int64_t i, int n) {
            store_n(out + i, vmin(load_n(row.logits + i, n) * inverse, splat(FLT_MAX)), n);
        });
    }
}

}  // namespace

// See `sample` in ops.py. A null temperature: all rows are greedy; a null row_start: no penalties; a null mask_row: no masks.
extern "C" void infer_sample(const void *logits, int64_t dtype, int64_t rows, int64_t vocabulary, int64_t stride, const float *temperature,
                             const int64_t *top_k, const float *top_p, const float *min_p, const double *uniform,
                             const int64_t *row_start, const int64_t *token, const float *bias, const float *repetition,
                             const float *subtract, const int64_t *mask_row, const int32_t *mask, int64_t mask_words, int64_t *tokens,
                             bool *finite) {
    const Changes changes{row_start, token, bias, repetition, subtract, mask_row, mask, mask_words};
    INFER_DISPATCH(dtype, T, over_rows(rows, vocabulary, [&](int64_t r, Scratch &scratch) {
        Settings settings{};
        if (temperature) settings = {temperature[r], top_k[r], top_p[r], min_p[r], uniform[r]};
        auto draw_from = [&](auto row) {
            finite[r] = row.finite;
            tokens[r] = choose(row, settings, scratch);
        };
        const T *own = (const T *)logits + r * stride;
        if (changes.any(r))
            draw_from(changed(own, vocabulary, changes, r, scratch));
        else
            draw_from(scan(own, vocabulary, scratch));
    }))
}

// See `processed_logits` in ops.py; null pointers as above.
extern "C" void infer_processed_logits(const void *logits, int64_t dtype, int64_t vocabulary, int64_t stride, const int64_t *places,
                                       int64_t num_places, const float *temperature, const int64_t *top_k, const float *top_p,
                                       const float *min_p, const int64_t *row_start, const int64_t *token, const float *bias,
                                       const float *repetition, const float *subtract, const int64_t *mask_row, const int32_t *mask,
                                       int64_t mask_words, float *out) {
    const Changes changes{row_start, token, bias, repetition, subtract, mask_row, mask, mask_words};
    INFER_DISPATCH(dtype, T, over_rows(num_places, vocabulary, [&](int64_t i, Scratch &scratch) {
        const int64_t r = places[i];
        Settings settings{};
        if (temperature) settings = {temperature[r], top_k[r], top_p[r], min_p[r], 0};
        float *processed = out + i * vocabulary;
        const T *own = (const T *)logits + r * stride;
        if (changes.any(r))
            process(changed(own, vocabulary, changes, r, scratch), settings, processed, scratch);
        else
            process(scan(own, vocabulary, scratch), settings, processed, scratch);
    }))
}
