// Paged attention of all heads over one latent a token, whose last features are its value too (multi-head latent attention, with what
// makes keys and values of latents multiplied into queries and results).
//
// A row is one (token, query head). All rows see the same latents, so rows are lanes: LANES of them are laid out word by word, once, and a
// product with a latent is one sum over its words as they lie in the cache. Values are laid out column by column for all rows of an item.
// Tiles have 64 positions that start at multiples of 64 of the sequence, with a running softmax from tile to tile, and every sum runs in
// one fixed order: a row's bits depend on its own query and latents alone. What a row does not see has weight 0 in its sums, and what
// is beyond the last row's position counts as zeros.
//
// latent cache [block][token][dim]

#include <algorithm>
#include <atomic>

#include "parallel.h"
#include "powers.h"
#include "scores.h"

namespace infer {
namespace {

struct Problem {
    void *out;           // [rows][heads][latent]
    const void *query;   // [rows][heads][dim]
    const void *latents;
    const int32_t *query_start, *kv_lens, *tables, *items;
    int64_t table_stride, heads, dim, latent, block_size;
    float scale;  // log2(e) in it
    int64_t width() const { return (latent + LANES - 1) / LANES * LANES; }
};

// How many sums are in registers at a time: tokens for a vector of rows, and rows by vectors of columns.
#if defined(__AVX512F__)
constexpr int TOKENS = 16, ABREAST = 6, COLUMNS = 4;
#elif defined(__AVX2__)
constexpr int TOKENS = 4, ABREAST = 2, COLUMNS = 2;
#else
constexpr int TOKENS = 2, ABREAST = 1, COLUMNS = 2;
#endif

// -- words: what one lane multiplies at a time ----------------------------------------------------------------------
// A feature as float32: latents are widened, a tile at a time.
template <class T> struct Words {
    typedef float Word;
    typedef float Element;  // of latents and of values laid out
    static constexpr int FEATURES = 1;
    static constexpr int STEP = 1;  // tokens of a weight
    static constexpr int64_t STRETCH = 64;  // words that are summed before they join the rest: one long sum would lose a digit

    static int64_t words(int64_t dim) { return dim; }
    static Word word(const T *row, int64_t w, int64_t) { return load_n(row + w, 1)[0]; }
    static f32x16 add(f32x16 sum, const Element *x, f32x16 y) { return vfma(splat(*x), y, sum); }
    static f32x16 load_words(const Word *p) { return load(p); }

    // Weights 2^(score * scale - best) of a step; adds their sum.
    static f32x16 weigh(const f32x16 *powers, Word *weights) {
        const f32x16 w = exp2_weight(powers[0]);
        store(weights, w);
        return w;
    }
    static f32x16 add_up(f32x16 sum, const Word *, f32x16 weight) { return sum + weight; }
    static f32x16 add_value(f32x16 sum, const Word *weight, f32x16 value) { return vfma(splat(*weight), value, sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
// A pair of bf16: of features in latents as they lie in the cache, of tokens in values that are laid out.
template <> struct Words<bf16> {
    typedef uint32_t Word;
    typedef bf16 Element;
    static constexpr int FEATURES = 2;
    static constexpr int STEP = 2;
    static constexpr int64_t STRETCH = 1 << 20;  // bf16 has no such digit

    static int64_t words(int64_t dim) { return (dim + 1) / 2; }
    static Word word(const bf16 *row, int64_t w, int64_t dim) { return row[2 * w].bits | (2 * w + 1 < dim ? (uint32_t)row[2 * w + 1].bits << 16 : 0); }
    static f32x16 add(f32x16 sum, const Element *x, f32x16 y) {
        int pair;
        memcpy(&pair, x, sizeof pair);
        return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)y);
    }
    static f32x16 load_words(const Word *p) { return (f32x16)_mm512_loadu_si512(p); }

    static f32x16 weigh(const f32x16 *powers, Word *weights) {
        const __m256i even = (__m256i)_mm512_cvtneps_pbh((__m512)exp2_rough(powers[0]));
        const __m256i odd = (__m256i)_mm512_cvtneps_pbh((__m512)exp2_rough(powers[1]));
        const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
        _mm512_storeu_si512(weights, both);
        return (f32x16)both;
    }
    // What is summed are the weights as rounded, so that shares add up to 1.
    static f32x16 add_up(f32x16 sum, const Word *, f32x16 weight) {
        return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weight, (__m512bh)_mm512_set1_epi32(0x3f803f80));
    }
    static f32x16 add_value(f32x16 sum, const Word *weight, f32x16 value) {
        return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)*weight), (__m512bh)value);
    }
};
#endif

// -- items ------------------------------------------------------------------------------------------------------------
// Heads h0 to h1 of `tokens` tokens of one sequence, the first of which is row `row` and at `position`.
struct Item {
    int64_t row, position, tokens, h0, h1;
    const int32_t *table;
    int64_t heads() const { return h1 - h0; }
    int64_t rows() const { return tokens * heads(); }
    int64_t vectors() const { return (rows() + LANES - 1) / LANES; }
    int64_t end() const { return position + tokens; }
};

Item find_item(const Problem &a, int64_t number, int64_t parts) {
    const int32_t *item = a.items + number / parts * 3;
    const int64_t sequence = item[0], first = item[1], part = number % parts, start = a.query_start[sequence];
    return {start + first,
            a.kv_lens[sequence] - (a.query_start[sequence + 1] - start) + first,
            item[2],
            a.heads * part / parts,
            a.heads * (part + 1) / parts,
            a.tables + sequence * a.table_stride};
}

template <class T> const T *place(const Problem &a, const Item &item, int64_t position) {
    return (const T *)a.latents + ((int64_t)item.table[position / a.block_size] * a.block_size + position % a.block_size) * a.dim;
}

// One thread's memory; grows to its largest item.
template <class T> struct Scratch {
    typedef Words<T> W;
    Buffer<typename W::Word> query;     // [vectors][words][LANES]
    Buffer<typename W::Element> copy;   // [TILE][stride]: latents that are not read where they lie
    Buffer<typename W::Element> value;  // [TILE / STEP][COLUMNS * LANES][STEP]
    Buffer<typename W::Word> weights;   // [vectors][TILE / STEP][LANES]
    Buffer<float> sums;                 // [rows][width]: weighted sums of values
    Buffer<f32x16> best, total, shrink; // [vectors]: largest scores yet, sums of weights, what sums are still to be multiplied by
    float score[TILE * LANES];
};

// A tile's latents: groups of LANES tokens, `stride` elements from one to the next.
template <class T> struct Tile {
    const typename Words<T>::Element *group[GROUPS];
    int64_t stride, start, count;  // `count` of them are there; what lies behind those may be anything, but for copies
};

inline void copy_row(float *to, const float *from, int64_t dim) { memcpy(to, from, dim * sizeof(float)); }
template <class T> void copy_row(float *to, const T *from, int64_t dim) {
    over_row(dim, [&](int64_t i, int n) { store_n(to + i, load_n(from + i, n), n); });
}
inline void copy_row(bf16 *to, const bf16 *from, int64_t dim) { memcpy(to, from, dim * sizeof(bf16)); }

template <class T> Tile<T> find_tile(const Problem &a, const Item &item, int64_t start, Scratch<T> &s) {
    typedef Words<T> W;
    Tile<T> tile{{}, a.dim, start, std::min<int64_t>(TILE, item.end() - start)};
    if constexpr (W::FEATURES == 2)
        if (a.block_size % LANES == 0 && a.dim % 2 == 0) {
            for (int64_t g = 0; g * LANES < tile.count; g++) tile.group[g] = place<T>(a, item, start + g * LANES);
            return tile;
        }
    tile.stride = W::words(a.dim) * W::FEATURES;
    auto *copy = s.copy.room(TILE * tile.stride + LANES);  // the last row is read in whole vectors
    memset(copy, 0, (TILE * tile.stride + LANES) * sizeof *copy);
    for (int64_t t = 0; t < tile.count; t++) copy_row(copy + t * tile.stride, place<T>(a, item, start + t), a.dim);
    for (int g = 0; g < GROUPS; g++) tile.group[g] = copy + g * LANES * tile.stride;
    return tile;
}

// -- scores -----------------------------------------------------------------------------------------------------------
// out[t][lane] = product of a vector of rows with token t, of LANES tokens. With AHEAD, a cache line a word is asked for meanwhile.
template <class T, bool AHEAD>
void multiply(const typename Words<T>::Element *x, int64_t stride, const typename Words<T>::Word *rows, int64_t words, float *out, const char *ahead) {
    typedef Words<T> W;
    constexpr int LINES = 64 * TOKENS / LANES;
    for (int first = 0; first < LANES; first += TOKENS, x += TOKENS * stride, ahead += words * LINES) {
        f32x16 sum[TOKENS];
        const typename W::Element *from[(TOKENS + 2) / 3];
#pragma GCC unroll 16
        for (int t = 0; t < TOKENS; t++) sum[t] = f32x16{};
#pragma GCC unroll 16
        for (int i = 0; i < (TOKENS + 2) / 3; i++) from[i] = x + 3 * i * stride;
        for (int64_t w = 0, stop; w < words;) {
            for (stop = std::min(words, w + W::STRETCH); w < stop; w++) {
                const f32x16 y = W::load_words(rows + w * LANES);
                if (AHEAD) soon(ahead + w * LINES);
#pragma GCC unroll 16
                for (int t = 0; t < TOKENS; t++) sum[t] = W::add(sum[t], from[t / 3] + t % 3 * stride, y);
#pragma GCC unroll 16
                for (int i = 0; i < (TOKENS + 2) / 3; i++) from[i] += W::FEATURES;
            }
#pragma GCC unroll 16
            for (int t = 0; t < TOKENS; t++) {
                float *total = out + (first + t) * LANES;
                store(total, w <= W::STRETCH ? sum[t] : load(total) + sum[t]);
                sum[t] = f32x16{};
            }
        }
    }
}

// From the scores of vector `v` of rows to weights. `seen`: tokens of the tile that each row sees; none where it is not positive.
template <class T> void weigh(const Problem &a, int64_t v, i32x16 seen, Scratch<T> &s) {
    typedef Words<T> W;
    const f32x16 none = splat(-INFINITY);
    f32x16 top = none;
    for (int t = 0; t < TILE; t++) {
        const f32x16 x = select(seen > t, load(s.score + t * LANES) * a.scale, none);
        store(s.score + t * LANES, x);
        top = vmax(x, top);
    }
    const f32x16 before = s.best.data[v], now = vmax(before, top);
    // Rows that have seen nothing keep -infinity; 0 stands in so that no -infinity is taken from another.
    const f32x16 pivot = select(now == none, splat(0.0f), now);
    f32x16 added = {};
    auto *weights = s.weights.data + v * (TILE / W::STEP) * LANES;
    for (int t = 0; t < TILE; t += W::STEP, weights += LANES) {
        f32x16 powers[W::STEP];
        for (int i = 0; i < W::STEP; i++) powers[i] = load(s.score + (t + i) * LANES) - pivot;
        added = W::add_up(added, weights, W::weigh(powers, weights));
    }
    s.best.data[v] = now;
    const f32x16 shrink = select(before == none, splat(0.0f), exp2_below(before - pivot));
    s.shrink.data[v] = shrink;
    s.total.data[v] = s.total.data[v] * shrink + added;
}

// -- values -----------------------------------------------------------------------------------------------------------
// Values of the tile from `column` on, `columns` vectors of them, as `add_values` wants them: where they lie, or [step][column][STEP].
template <class T> const typename Words<T>::Element *lay_out(const Problem &a, const Tile<T> &tile, int64_t column, int64_t columns, Scratch<T> &s, int64_t &stride) {
    const int64_t first = a.dim - a.latent + column;
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (Words<T>::STEP == 2) {
        bf16 *to = s.value.room(TILE * COLUMNS * LANES);
        stride = columns * LANES * 2;
        for (int64_t t = 0; t < TILE; t += 2) {
            const bf16 *even = tile.group[t / LANES] + t % LANES * tile.stride + first, *odd = even + tile.stride;
            for (int64_t i = 0; i < columns * LANES; i += LANES, to += 2 * LANES) {
                const __mmask16 here = (__mmask16)((1u << std::clamp<int64_t>(a.latent - column - i, 0, LANES)) - 1);
                const __m256i x = _mm256_maskz_loadu_epi16(t < tile.count ? here : 0, even + i);
                const __m256i y = _mm256_maskz_loadu_epi16(t + 1 < tile.count ? here : 0, odd + i);
                _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32(x), _mm512_slli_epi32(_mm512_cvtepu16_epi32(y), 16)));
            }
        }
        return s.value.data;
    }
#endif
    stride = tile.stride;
    return tile.group[0] + first;
}

// sums[r] = sums[r] * shrink[r] + weights[r] . values over the tile's steps in order, NV vectors of columns of R rows.
template <class T, int R, int NV>
void add_values(const typename Words<T>::Word *weights, const float *shrink, const typename Words<T>::Element *value, int64_t stride, float *sums, int64_t width) {
    typedef Words<T> W;
    f32x16 sum[R][NV];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) sum[r][n] = load(sums + r * width + n * LANES) * shrink[r];
    for (int t = 0; t < TILE; t += W::STEP, value += stride, weights += LANES) {
        f32x16 v[NV];
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) v[n] = load((const float *)(value + n * LANES * W::STEP));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int n = 0; n < NV; n++) sum[r][n] = W::add_value(sum[r][n], weights + r, v[n]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) store(sums + r * width + n * LANES, sum[r][n]);
}

template <class T, int NV>
void add_columns(const Item &item, int64_t first, const typename Words<T>::Element *value, int64_t stride, int64_t column, Scratch<T> &s, int64_t width) {
    for (int64_t v = first; v < item.vectors(); v++) {
        const auto *weights = s.weights.data + v * (TILE / Words<T>::STEP) * LANES;
        const float *shrink = (const float *)&s.shrink.data[v];
        float *sums = s.sums.data + v * LANES * width + column;
        const int64_t rows = std::min<int64_t>(LANES, item.rows() - v * LANES), blocks = (rows + ABREAST - 1) / ABREAST;
        for (int64_t b = 0; b < blocks; b++) {  // evenly: a row alone would wait for its own sums
            const int64_t r = rows * b / blocks;
            switch (rows * (b + 1) / blocks - r) {
#define INFER_ROWS(R) \
    case R: add_values<T, std::min(R, ABREAST), NV>(weights + r, shrink + r, value, stride, sums + r * width, width); break;
                INFER_ROWS(1) INFER_ROWS(2) INFER_ROWS(3) INFER_ROWS(4) INFER_ROWS(5) INFER_ROWS(6)
#undef INFER_ROWS
            }
        }
    }
}

// -- one item -----------------------------------------------------------------------------------------------------------
template <class T> void attend(const Problem &a, const Item &item, Scratch<T> &s) {
    typedef Words<T> W;
    const int64_t heads = item.heads(), rows = item.rows(), vectors = item.vectors(), words = W::words(a.dim), width = a.width();
    const auto head_of = [&](int64_t r) { return (item.row + r / heads) * a.heads + item.h0 + r % heads; };
    auto *query = s.query.room(vectors * words * LANES);
    memset(query, 0, vectors * words * LANES * sizeof *query);
    for (int64_t r = 0; r < rows; r++) {
        const T *row = (const T *)a.query + head_of(r) * a.dim;
        for (int64_t w = 0; w < words; w++) query[(r / LANES * words + w) * LANES + r % LANES] = W::word(row, w, a.dim);
    }
    s.weights.room(vectors * (TILE / W::STEP) * LANES);
    s.shrink.room(vectors);
    std::fill_n(s.best.room(vectors), vectors, splat(-INFINITY));
    std::fill_n(s.total.room(vectors), vectors, f32x16{});
    std::fill_n(s.sums.room(rows * width), rows * width, 0.0f);

    for (int64_t start = 0; start < item.end(); start += TILE) {
        const Tile<T> tile = find_tile<T>(a, item, start, s);
        const int64_t first = std::max<int64_t>(0, start - item.position) * heads / LANES;  // vectors of earlier rows end before the tile
        for (int64_t v = first; v < vectors; v++) {
            for (int g = 0; g < GROUPS; g++) {
                if (g * LANES >= tile.count) continue;  // nobody sees these
                // As many bytes as words have cache lines are those of as many tokens of the next tile, where their blocks are as large.
                const int64_t next = start + TILE + g * LANES;
                const bool ahead = v == first && next < item.end();
                const auto one = ahead ? multiply<T, true> : multiply<T, false>;
                one(tile.group[g], tile.stride, query + v * words * LANES, words, s.score + g * LANES * LANES,
                    (const char *)(ahead ? place<T>(a, item, next) : nullptr));
            }
            alignas(64) int32_t seen[LANES];
            for (int64_t i = 0; i < LANES; i++)
                seen[i] = v * LANES + i < rows ? (int32_t)std::clamp<int64_t>(item.position + (v * LANES + i) / heads + 1 - start, 0, TILE) : 0;
            i32x16 lanes;
            read(seen, lanes);
            weigh(a, v, lanes, s);
        }
        for (int64_t column = 0, columns; column < width; column += columns * LANES) {
            columns = std::min<int64_t>(COLUMNS, (width - column) / LANES);
            int64_t stride;
            const auto *value = lay_out<T>(a, tile, column, columns, s, stride);
            switch (columns) {
            case 4: add_columns<T, std::min(4, COLUMNS)>(item, first, value, stride, column, s, width); break;
            case 3: add_columns<T, std::min(3, COLUMNS)>(item, first, value, stride, column, s, width); break;
            case 2: add_columns<T, 2>(item, first, value, stride, column, s, width); break;
            case 1: add_columns<T, 1>(item, first, value, stride, column, s, width); break;
            }
        }
    }

    for (int64_t r = 0; r < rows; r++) {
        const f32x16 share = splat(1.0f / s.total.data[r / LANES][r % LANES]);
        T *out = (T *)a.out + head_of(r) * a.latent;
        const float *sums = s.sums.data + r * width;
        over_row(a.latent, [&](int64_t i, int n) { store_n(out + i, load(sums + i) * share, n); });
    }
}

template <class T> void attend_all(const Problem &a, int64_t num_items, int64_t parts) {
    std::atomic<int64_t> taken{0};
    in_team(
        [&] {
            Scratch<T> s;
            for (int64_t number; (number = taken++) < num_items * parts;) attend<T>(a, find_item(a, number, parts), s);
        },
        num_items * parts > 1);
}

}  // namespace
}  // namespace infer

// items int32 [num_items][3]: sequence, first of its query tokens, how many; the heads of each are cut in `parts`.
extern "C" void infer_latent_attention(void *out, const void *query, const void *latents, const int32_t *query_start, const int32_t *kv_lens,
                                       const int32_t *tables, int64_t table_stride, const int32_t *items, int64_t num_items, int64_t parts,
                                       int64_t heads, int64_t dim, int64_t latent, int64_t block_size, float scale, int64_t dtype) {
    const infer::Problem a{out,          query, latents, query_start, kv_lens,    tables, items,
                           table_stride, heads, dim,     latent,      block_size, scale * infer::LOG2E};
    INFER_DISPATCH(dtype, T, infer::attend_all<T>(a, num_items, parts));
}
