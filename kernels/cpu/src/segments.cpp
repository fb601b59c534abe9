// Attention within whole texts, in both directions, straight from the rows of a qkv projection.
//
// A thread lays out one text's keys and values of a head as the sums over them want, once, and then takes the text's rows through
// them, ROWS at a time. Keys are visited in chunks of CHUNK positions of the text, with a running softmax from chunk to chunk; most
// texts are one chunk. Every sum runs in an order of its own text's positions: what a row gets depends on nothing else.

#include <algorithm>
#include <atomic>

#include "laid_out.h"
#include "parallel.h"
#include "rotation.h"
#include "scores.h"
#include "weighted.h"

namespace infer {
namespace {

// Rows that go through a chunk before the next one comes: chunks of long texts are read from memory once a band.
constexpr int64_t BAND = 16 * ROWS;

struct Problem {
    void *out;               // [rows, num_heads * head_dim]
    const void *qkv;         // [rows, (num_heads + 2 * num_kv_heads) * head_dim]
    const float *row_scale;  // [rows] or null
    Rotation rotation;
    const int32_t *starts, *items;
    int64_t num_heads, num_kv_heads, head_dim, window;
    float scale, soft_cap;
    const float *alibi, *sinks;
    const float *bias;      // null, or: that of (head h, query i, key j) of text s is bias[at + h * head + i * row + j]
    const int64_t *places;  // [texts][3]: at, head, row

    int64_t pairs() const { return (head_dim + 1) / 2; }
    int64_t group() const { return num_heads / num_kv_heads; }
    int64_t width() const { return (head_dim + LANES - 1) / LANES * LANES; }
    int64_t row_size() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

// Key/value heads h0 to h1 of tokens [first, last) of a text of `len` tokens, whose first one is row `row`.
struct Item {
    int64_t row, len, h0, h1, first, last;
    const int64_t *place;  // of the text's bias, if there is one
};

Item find_item(const Problem &a, int64_t number) {
    const int32_t *item = a.items + number * 5;
    const int64_t row = a.starts[item[0]];
    return {row, a.starts[item[0] + 1] - row, item[1], item[2], item[3], item[4], a.places ? a.places + item[0] * 3 : nullptr};
}

// -- a text's keys and values -----------------------------------------------------------------------------------------
// One thread's memory; grows to its largest item.
template <class T> struct Scratch {
    Buffer<T> key;
    Buffer<typename Values<T>::Element> value;
    Buffer<T> turned;                       // [BLOCK][pairs * 2]: heads as rotated
    Buffer<typename Query<T>::Pair> query;  // [rows of a band][pairs]
    Buffer<float> sums;                     // [rows of a band][width]: weighted sums of values
    float best[BAND];                       // largest score yet
    f32x16 total[BAND];                     // sums of weights, lane by lane
    float score[ROWS * SCORES];
};

// Head `h` of the row, counting query, key and value heads.
template <class T> const T *head_of(const Problem &a, int64_t row, int64_t h) { return (const T *)a.qkv + row * a.row_size() + h * a.head_dim; }

// Asks for the next head of `tokens` rows, which lies behind the one at `from`: rows are too far apart for the machine to see that.
template <class T> void ask_for_next(const Problem &a, const T *from, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < a.head_dim; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(from + t * a.row_size() + a.head_dim + i);
}

template <class T> void turn(const Problem &a, int64_t row, int64_t h, const Rotation &rotation, T *out) {
    const float factor = a.row_scale ? a.row_scale[row] : 1.0f;
    const T *x = head_of<T>(a, row, h);
    rotation.turn(row, a.head_dim, out, [&](int64_t i, int n) { return load_n(x + i, n) * factor; });
}

// Lays out keys and values of tokens [from, to) of the item's text, `from` a multiple of BLOCK.
template <class T> void pack(const Problem &a, const Item &item, int64_t h, int64_t from, int64_t to, Scratch<T> &s) {
    const int64_t dim = a.head_dim, pairs = a.pairs(), width = a.width(), blocks = (to - from + BLOCK - 1) / BLOCK;
    T *key = s.key.room(blocks * BLOCK * pairs * 2), *turned = s.turned.room(BLOCK * dim);
    auto *value = s.value.room(blocks * BLOCK * width);
    const Rotation none{};
    for (int64_t t = from; t < to; t += BLOCK, key += BLOCK * pairs * 2, value += BLOCK * width) {
        const int64_t tokens = std::min(BLOCK, to - t), row = item.row + t, k = a.num_heads + h, v = k + a.num_kv_heads;
        if (a.rotation.positions || a.row_scale) {
            for (int64_t i = 0; i < tokens; i++) turn(a, row + i, k, a.rotation, turned + i * dim);
            pack_keys(key, turned, dim, tokens, dim);
        } else {
            pack_keys(key, head_of<T>(a, row, k), a.row_size(), tokens, dim);
        }
        if (a.row_scale) {
            for (int64_t i = 0; i < tokens; i++) turn(a, row + i, v, none, turned + i * dim);
            Values<T>::pack(value, turned, dim, tokens, dim, width);
        } else {
            Values<T>::pack(value, head_of<T>(a, row, v), a.row_size(), tokens, dim, width);
        }
        ask_for_next(a, head_of<T>(a, row, k), tokens);
        ask_for_next(a, head_of<T>(a, row, v), tokens);
    }
}

// -- rows -------------------------------------------------------------------------------------------------------------
// Rows of a band: (token, head of the group), tokens in order.
struct Rows {
    int64_t count, first, group;  // `first`: number of the band's first row in the text
    int64_t position(int64_t r) const { return (first + r) / group; }
    int64_t head(int64_t r) const { return (first + r) % group; }
};

// The tokens whose keys and values are laid out, [from, to); `len` of the whole text.
struct Packed {
    int64_t from, to, len;
};

template <class T, int R, int G>
void score_groups(const Problem &a, const T *key, const typename Query<T>::Pair *query, float *out) {
    Keys<T> keys;
    keys.pair_stride = LANES * 2;
    for (int g = 0; g < G; g++) keys.key[g] = key + g * LANES * a.pairs() * 2;
    Query<T>::template scores<R, G, false>(query, keys, keys, a.pairs(), out, SCORES);
}

// The running softmax of R rows from r0 on over tokens [begin, end) of a chunk, `begin` a multiple of BLOCK.
template <class T, bool SPECIAL, int R>
void absorb(const Problem &a, const Item &item, const Packed &packed, int64_t begin, int64_t end, const Rows &rows, int64_t r0, int64_t head0, Scratch<T> &s) {
    if (SPECIAL && a.window > 0) {
        begin = std::max(begin, (rows.position(r0) + 1 - a.window) / BLOCK * BLOCK);
        end = std::min(end, rows.position(r0 + R - 1) + a.window);
        if (begin >= end) return;
    }
    const int64_t pairs = a.pairs(), width = a.width(), count = end - begin, groups = (count + LANES - 1) / LANES;
    const int64_t padded = (count + BLOCK - 1) / BLOCK * BLOCK;
    const auto *query = s.query.data + r0 * pairs;
    const T *key = s.key.data + (begin - packed.from) * pairs * 2;
    float *score = s.score;
    for (int64_t g = 0; g < groups; g += GROUPS, key += TILE * pairs * 2) {
        switch (std::min<int64_t>(GROUPS, groups - g)) {
        case 4: score_groups<T, R, 4>(a, key, query, score + g * LANES); break;
        case 3: score_groups<T, R, 3>(a, key, query, score + g * LANES); break;
        case 2: score_groups<T, R, 2>(a, key, query, score + g * LANES); break;
        case 1: score_groups<T, R, 1>(a, key, query, score + g * LANES); break;
        }
    }

    const i32x16 lane = lane_numbers();
    const f32x16 hidden = splat(-INFINITY);
    for (int r = 0; r < R; r++) {
        float *mine = score + r * SCORES;
        if (padded > groups * LANES) store(mine + groups * LANES, hidden);
        if (SPECIAL) {
            const int64_t position = rows.position(r0 + r);
            const int low = a.window > 0 ? (int)std::max<int64_t>(0, position + 1 - a.window - begin) : 0;
            const int high = (int)(a.window > 0 ? std::min(end, position + a.window) : end) - (int)begin;
            const int64_t head = head0 + rows.head(r0 + r);
            const float slope = a.alibi ? a.alibi[head] : 0.0f;
            const float *bias = a.bias ? a.bias + item.place[0] + head * item.place[1] + position * item.place[2] + begin : nullptr;
            for (int64_t t = 0; t < groups * LANES; t += LANES) {
                f32x16 x = load(mine + t);
                x = a.soft_cap > 0 ? capped(x, a.scale / a.soft_cap, a.soft_cap) : x * a.scale;
                if (a.alibi) x = x - vabs(convert<f32x16>(lane + (int32_t)(begin + t - position))) * slope;
                if (bias) x = x + (t + LANES <= count ? load(bias + t) : load_n(bias + t, (int)(count - t)));
                x *= LOG2E;
                store(mine + t, select((lane + (int32_t)t >= low) & (lane + (int32_t)t < high), x, hidden));
            }
        } else if (count % LANES) {
            float *last = mine + (groups - 1) * LANES;
            store(last, select(lane < (int32_t)(count % LANES), load(last), hidden));
        }
        const float scale = SPECIAL ? 1.0f : a.scale;
        f32x16 top = load(mine);
        for (int64_t t = LANES; t < groups * LANES; t += LANES) top = vmax(load(mine + t), top);
        const float before = s.best[r0 + r], now = std::max(before, reduce_max(top) * scale);
        // A row that has seen no key yet keeps -infinity; 0 stands in so that no -infinity is taken from another.
        const f32x16 added = Values<T>::weigh(mine, padded, scale, now == -INFINITY ? 0.0f : now);
        s.best[r0 + r] = now;
        if (before == -INFINITY) {
            s.total[r0 + r] = added;
        } else {
            const float shrink = exp2_one(before - now);
            float *sums = s.sums.data + (r0 + r) * width;
            s.total[r0 + r] = s.total[r0 + r] * shrink + added;
            if (shrink != 1.0f)
                for (int64_t i = 0; i < width; i += LANES) store(sums + i, load(sums + i) * shrink);
        }
    }
    const int64_t steps = (count + Values<T>::STEP - 1) / Values<T>::STEP;
    add_all_values<T, R>(score, s.value.data + (begin - packed.from) * width, steps, s.sums.data + r0 * width, width);
}

template <class T, bool SPECIAL> void attend_band(const Problem &a, const Item &item, int64_t h, const Packed &packed, const Rows &rows, Scratch<T> &s) {
    const int64_t dim = a.head_dim, pairs = a.pairs(), width = a.width(), head0 = h * a.group();
    T *turned = s.turned.data;
    for (int64_t r = 0; r < rows.count; r++) {
        const int64_t row = item.row + rows.position(r), head = head0 + rows.head(r);
        const T *from = head_of<T>(a, row, head);
        if (a.rotation.positions || a.row_scale) {
            turn(a, row, head, a.rotation, turned);
            from = turned;
        }
        Query<T>::pack(s.query.data + r * pairs, from, dim);
    }
    ask_for_next(a, head_of<T>(a, item.row + rows.position(0), head0 + a.group() - 1), (rows.count + a.group() - 1) / a.group());
    std::fill_n(s.best, rows.count, -INFINITY);
    std::fill_n(s.total, rows.count, f32x16{});
    std::fill_n(s.sums.data, rows.count * width, 0.0f);

    for (int64_t begin = packed.from / CHUNK * CHUNK; begin < packed.to; begin += CHUNK) {
        const int64_t from = std::max(begin, packed.from), to = std::min(begin + CHUNK, packed.to);
        // Evenly: a row alone would wait for its own sums.
        const int64_t blocks = (rows.count + ROWS - 1) / ROWS;
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t r = rows.count * b / blocks;
            switch (rows.count * (b + 1) / blocks - r) {
            case 6: absorb<T, SPECIAL, 6>(a, item, packed, from, to, rows, r, head0, s); break;
            case 5: absorb<T, SPECIAL, 5>(a, item, packed, from, to, rows, r, head0, s); break;
            case 4: absorb<T, SPECIAL, 4>(a, item, packed, from, to, rows, r, head0, s); break;
            case 3: absorb<T, SPECIAL, 3>(a, item, packed, from, to, rows, r, head0, s); break;
            case 2: absorb<T, SPECIAL, 2>(a, item, packed, from, to, rows, r, head0, s); break;
            case 1: absorb<T, SPECIAL, 1>(a, item, packed, from, to, rows, r, head0, s); break;
            }
        }
    }

    for (int64_t r = 0; r < rows.count; r++) {
        float total = reduce_add(s.total[r]), factor = 1.0f;
        if (SPECIAL && a.sinks) {
            const float sink = a.sinks[head0 + rows.head(r)] * LOG2E, best = std::max(s.best[r], sink);
            factor = exp2_one(s.best[r] - best);
            total = total * factor + exp2_one(sink - best);
        }
        const f32x16 share = splat(factor / total);
        T *out = (T *)a.out + ((item.row + rows.position(r)) * a.num_heads + head0 + rows.head(r)) * dim;
        const float *sums = s.sums.data + r * width;
        over_row(dim, [&](int64_t i, int n) { store_n(out + i, load(sums + i) * share, n); });
    }
}

template <class T, bool SPECIAL> void attend(const Problem &a, const Item &item, Scratch<T> &s) {
    const int64_t group = a.group();
    Packed packed{0, item.len, item.len};
    if (SPECIAL && a.window > 0) {
        packed.from = std::max<int64_t>(0, item.first + 1 - a.window) / BLOCK * BLOCK;
        packed.to = std::min(item.len, item.last - 1 + a.window);
    }
    const int64_t most = std::min(BAND, (item.last - item.first) * group);
    s.query.room(most * a.pairs());
    s.sums.room(most * a.width());
    for (int64_t h = item.h0; h < item.h1; h++) {
        pack(a, item, h, packed.from, packed.to, s);
        for (int64_t first = item.first * group; first < item.last * group; first += BAND)
            attend_band<T, SPECIAL>(a, item, h, packed, Rows{std::min(BAND, item.last * group - first), first, group}, s);
    }
}

template <class T> void attend_all(const Problem &a, int64_t count, bool special) {
    std::atomic<int64_t> taken{0};
    in_team(
        [&] {
            Scratch<T> s;
            for (int64_t number; (number = taken++) < count;) {
                const Item item = find_item(a, number);
                special ? attend<T, true>(a, item, s) : attend<T, false>(a, item, s);
            }
        },
        count > 1);
}

}  // namespace
}  // namespace infer

// items int32 [count][5]: text, first and last + 1 of its key/value heads, first and last + 1 of its tokens; in the order they are begun.
extern "C" void infer_segment_attention(void *out, const void *qkv, const float *row_scale, const int64_t *positions, const float *cos,
                                        const float *sin, int64_t rotated, const int32_t *starts, const int32_t *items, int64_t count,
                                        int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t window, float scale,
                                        float soft_cap, const float *alibi, const float *sinks, const float *bias, const int64_t *places,
                                        int64_t dtype) {
    const bool special = window > 0 || soft_cap > 0 || alibi || sinks || bias || !(scale > 0);
    infer::Problem a{out,       qkv,          row_scale, {positions, cos, sin, rotated}, starts, items,
                     num_heads, num_kv_heads, head_dim,  window, scale, soft_cap, alibi, sinks, bias, places};
    if (!special) a.scale *= infer::LOG2E;
    INFER_DISPATCH(dtype, T, infer::attend_all<T>(a, count, special));
}
