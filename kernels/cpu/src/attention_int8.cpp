// Paged attention over keys and values in int8. See attention.h, and codes.h for the cache's layout.
#include "attention.h"
#include "codes.h"
#include "quantized.h"

namespace infer {
namespace {

// Queries of type T; keys and values as codes.
template <class T> struct Codes {
    typedef T Row;
    typedef Products<false> OfKeys;
    typedef Products<true> OfValues;
    static constexpr int ROWS = infer::ROWS, STEPS_AHEAD = 3, BATCH = 1;

    struct Tile {
        const uint8_t *key[GROUPS], *value[GROUPS], *key_scale[GROUPS], *value_scale[GROUPS];
        int64_t key_stride, value_stride;  // bytes from four dims of keys, four tokens of values, to the next
    };

    struct Scratch {
        Buffer<int32_t> query;  // [rows][2][quads of a row]
        Buffer<float> scale;    // [rows]: a query is its integers times that
        Buffer<int32_t> begin;  // [rows]
        Buffer<uint8_t> copy;
    };

    static int64_t quads(const Problem &a) { return places(a.head_dim) / 4; }
    // Room for them: whole vectors are packed.
    static int64_t quads_of_row(const Problem &a) { return (a.head_dim + LANES - 1) / LANES * (LANES / 4); }

    static void room(const Problem &a, int64_t rows, Scratch &s) {
        s.query.room(rows * 2 * quads_of_row(a));
        s.scale.room(rows), s.begin.room(rows);
    }

    static void pack(const Problem &a, Scratch &s, int64_t r, const T *x) {
        Magnitude magnitude;
        over_row(a.head_dim, [&](int64_t i, int n) { magnitude.add(load_n(x + i, n)); });
        const Quantizer quantizer(magnitude.largest(), MOST_QUERY);
        int32_t *first = s.query.data + r * 2 * quads_of_row(a);
        u32x16 total = {};
        over_row(a.head_dim, [&](int64_t i, int n) {
            const u32x16 integers = to_integers(quantizer.inverse * load_n(x + i, n));
            OfKeys::pack(integers, first + i / 4, first + quads_of_row(a) + i / 4);
            total = total + integers;
        });
        s.begin.data[r] = OfKeys::begin(total);
        s.scale.data[r] = quantizer.scale;
    }

    static Tile find_tile(const Problem &a, const Place &at) {
        Tile tile;
        const int64_t size = a.block_size, start = at.start, wide = places(a.head_dim);
        tile.key_stride = size * 4, tile.value_stride = wide * 4;
        for (int g = 0; g < GROUPS; g++) {
            const int64_t position = start + g * LANES;
            const bool inside = position < at.end;
            const int64_t block = inside ? at.table[position / size] : 0, offset = inside ? position % size : 0;  // block 0 is zeros
            const int64_t place = (block * a.num_kv_heads + at.head) * head_bytes(a.head_dim, size);
            const uint8_t *key = (const uint8_t *)a.key + place, *value = (const uint8_t *)a.value + place;
            tile.key[g] = key + offset * 4, tile.value[g] = value + offset * wide;
            tile.key_scale[g] = key + wide * size + offset * 4, tile.value_scale[g] = value + wide * size + offset * 4;
        }
        return tile;
    }

    static Tile copy_tile(const Problem &a, const Place &at, Scratch &s) {
        const int64_t size = a.block_size, wide = places(a.head_dim), start = at.start, beside = together(size);
        const int64_t bytes = head_bytes(a.head_dim, TILE), scales = wide * TILE;
        uint8_t *key = s.copy.room(2 * bytes), *value = key + bytes;
        memset(key, 0, 2 * bytes);
        for (int64_t t = 0; t < TILE && start + t < at.end; t++) {
            const int64_t offset = (start + t) % size;
            const int64_t place = (at.table[(start + t) / size] * a.num_kv_heads + at.head) * head_bytes(a.head_dim, size);
            const uint8_t *k = (const uint8_t *)a.key + place, *v = (const uint8_t *)a.value + place;
            for (int64_t q = 0; q < quads(a); q++) memcpy(key + (q * TILE + t) * 4, k + (q * size + offset) * 4, 4);
            const uint8_t *column = v + offset / beside * beside * wide + offset % beside;
            for (int64_t d = 0; d < wide; d++) value[(t / 4 * wide + d) * 4 + t % 4] = column[d * beside];
            memcpy(key + scales + t * 4, k + wide * size + offset * 4, 4);
            memcpy(value + scales + t * 4, v + wide * size + offset * 4, 4);
        }
        Tile tile;
        tile.key_stride = TILE * 4, tile.value_stride = wide * 4;
        for (int g = 0; g < GROUPS; g++) {
            const int64_t t = g * LANES;
            tile.key[g] = key + t * 4, tile.value[g] = value + t * wide;
            tile.key_scale[g] = key + scales + t * 4, tile.value_scale[g] = value + scales + t * 4;
        }
        return tile;
    }

    // Groups of tokens, or of dims, at a time: R times as many sums in registers.
#if defined(__AVX512F__)
    static constexpr int WIDE = 4;
#else
    static constexpr int WIDE = 1;
#endif

    static f32x16 weigh(float *score, float scale, float best) {
        f32x16 sum = {};
        for (int g = 0; g < GROUPS; g++, score += LANES) {
            const f32x16 w = exp2_rough(vfma(load(score), splat(scale), splat(-best)));
            store(score, w);
            sum += w;
        }
        return sum;
    }

    template <int R, bool AHEAD> static void scores(const Problem &a, const Scratch &s, int64_t r0, const Tile &tile, const Tile &next, int groups, float *out) {
        const int64_t room = quads_of_row(a);
        const int32_t *query = s.query.data + r0 * 2 * room;
        for (int first = 0; first < groups; first += WIDE) {
            i32x16 sum[R][WIDE];
            multiply<OfKeys>(
                sum, {query, query + room}, 2 * room, 1, quads(a), tile.key_stride, [&](int, int n) { return tile.key[first + n]; },
                [&](int, int n) { return next.key[first + n]; });
#pragma GCC unroll 4
            for (int n = 0; n < WIDE; n++) {
                f32x16 scale;
                read(tile.key_scale[first + n], scale);
                soon(next.key_scale[first + n]), soon(next.value_scale[first + n]);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
                    store(out + r * TILE + (first + n) * LANES, convert<f32x16>(sum[r][n] + s.begin.data[r0 + r]) * scale * s.scale.data[r0 + r]);
            }
        }
    }

    // R rows' weights for a tile, each times its value's scale, as integers.
    template <int R> struct Weights {
        int32_t words[R][2][TILE / 4];
        float scale[R];
        int32_t begin[R];
    };

    template <int R, bool AHEAD>
    static void add_values(const Problem &a, const float *weights, const Seen<ROWS> &seen, const float *shrink, const Tile &tile, const Tile &next, float *sums,
                           int64_t width) {
        Weights<R> rounded;
        f32x16 scale[GROUPS];
        for (int g = 0; g < GROUPS; g++) read(tile.value_scale[g], scale[g]);
        for (int r = 0; r < R; r++) {
            f32x16 w[GROUPS];
            Magnitude magnitude;
            for (int g = 0; g < GROUPS; g++) {
                const f32x16 weight = load(weights + r * TILE + g * LANES);
                w[g] = weight * scale[g];
                if (seen.partial) w[g] = select(weight == 0.0f, splat(0.0f), w[g]);  // a masked token's scale must not show
                magnitude.add(w[g]);
            }
            const PowerOfTwo unit(magnitude.largest(), OfValues::WEIGHT_BITS);
            u32x16 total = {};
            for (int g = 0; g < GROUPS; g++) {
                const u32x16 integers = to_integers(w[g] * unit.inverse);
                OfValues::pack(integers, rounded.words[r][0] + g * 4, rounded.words[r][1] + g * 4);
                total = total + integers;
            }
            rounded.begin[r] = OfValues::begin(total);
            rounded.scale[r] = unit.scale;
        }
        int64_t column = 0;
        for (; column + WIDE * LANES <= width; column += WIDE * LANES) values<R, WIDE>(rounded, shrink, tile, next, column, sums, width);
        for (; column < width; column += LANES) values<R, 1>(rounded, shrink, tile, next, column, sums, width);
    }

    // N * 16 dims from `column` on. What is beyond the last dim is of no use: other dims, or scales.
    template <int R, int N>
    static void values(const Weights<R> &rounded, const float *shrink, const Tile &tile, const Tile &next, int64_t column, float *sums, int64_t width) {
        i32x16 sum[R][N];
        multiply<OfValues>(
            sum, {rounded.words[0][0], rounded.words[0][1]}, 2 * (TILE / 4), GROUPS, LANES / 4, tile.value_stride,
            [&](int g, int n) { return tile.value[g] + (column + n * LANES) * 4; },
            [&](int g, int n) { return next.value[g] + (column + n * LANES) * 4; });
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) {
                float *to = sums + r * width + column + n * LANES;
                store(to, vfma(convert<f32x16>(sum[r][n] + rounded.begin[r]), splat(rounded.scale[r]), load(to) * shrink[r]));
            }
    }
};

}  // namespace

void attend_int8(const Problem &a, int64_t num_items, int64_t heads_together, int64_t dtype) {
    INFER_DISPATCH(dtype, T, attend_all<Codes<T>>(a, num_items, heads_together));
}

}  // namespace infer
