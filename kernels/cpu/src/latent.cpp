// Paged attention of all heads over one latent vector a token, whose last features are its value too (multi-head latent attention,
// with what makes keys and values of latents multiplied into queries and results).
//
// A thread takes neighbouring tokens of a sequence, all their heads or some of them: it lays a tile of latents out twice, as keys and as
// values, and takes its rows through them. Tiles have 64 positions that start at multiples of 64 of the sequence, with a running softmax
// from tile to tile, and every sum runs in one fixed order: a row's bits depend on its own query and latents alone. What a row does not
// see has weight 0 in its sums, and what is beyond the last row's position is laid out as zeros.
//
// latent cache [block][token][dim]

#include <algorithm>
#include <atomic>

#include "laid_out.h"
#include "scores.h"
#include "weighted.h"

namespace infer {
namespace {

static_assert(TILE % BLOCK == 0 && TILE <= CHUNK, "tiles are made of blocks that are laid out together");

struct Problem {
    void *out;           // [rows][heads][latent]
    const void *query;   // [rows][heads][dim]
    const void *latents;
    const int32_t *query_start, *kv_lens, *tables, *items;
    int64_t table_stride, heads, dim, latent, block_size;
    float scale;  // log2(e) in it
    int64_t pairs() const { return (dim + 1) / 2; }
    int64_t width() const { return (latent + LANES - 1) / LANES * LANES; }
};

// One thread's memory; grows to its largest item.
template <class T> struct Scratch {
    Buffer<T> key;                            // a tile's, as `pack_keys` lays them out
    Buffer<typename Values<T>::Element> value;
    Buffer<typename Query<T>::Pair> query;    // [rows][pairs]
    Buffer<float> sums;                       // [rows][width]: weighted sums of values
    Buffer<float> best;                       // [rows]: largest score yet
    Buffer<f32x16> total;                     // [rows]: sums of weights, lane by lane
    float score[ROWS * SCORES];
};

// Heads h0 to h1 of `tokens` tokens of one sequence, the first of which is row `row` and at `position`.
struct Item {
    int64_t row, position, tokens, h0, h1;
    const int32_t *table;
    int64_t heads() const { return h1 - h0; }
    int64_t rows() const { return tokens * heads(); }
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

// Where the latents of positions from `start` on are.
template <class T> struct Places {
    const Problem &a;
    const int32_t *table;
    int64_t start, offset;  // `offset`: of the first feature wanted
    const T *operator()(int64_t t) const {
        const int64_t position = start + t, block = table[position / a.block_size];
        return (const T *)a.latents + (block * a.block_size + position % a.block_size) * a.dim + offset;
    }
};

template <class T> void pack(const Problem &a, const Item &item, int64_t start, Scratch<T> &s) {
    T *key = s.key.room(TILE * a.pairs() * 2);
    auto *value = s.value.room(TILE * a.width());
    for (int64_t t = start; t < start + TILE; t += BLOCK, key += BLOCK * a.pairs() * 2, value += BLOCK * a.width()) {
        const int64_t tokens = std::clamp<int64_t>(item.end() - t, 0, BLOCK);
        pack_keys(key, Places<T>{a, item.table, t, 0}, tokens, a.dim);
        Values<T>::pack(value, Places<T>{a, item.table, t, a.dim - a.latent}, tokens, a.latent, a.width());
    }
}

// Asks for the latents of positions [from, to).
template <class T> void ask_for(const Problem &a, const Item &item, int64_t from, int64_t to) {
    const Places<T> places{a, item.table, 0, 0};
    for (int64_t position = from; position < to; position++) {
        const char *row = (const char *)places(position);
        for (int64_t i = 0; i < a.dim * (int64_t)sizeof(T); i += 64) soon(row + i);
    }
}

// The running softmax of R rows from r0 on over the tile that is laid out, which starts at `start` and of which each sees something.
template <class T, int R> void absorb(const Problem &a, const Item &item, int64_t start, int64_t r0, Scratch<T> &s) {
    const int64_t pairs = a.pairs(), width = a.width();
    Keys<T> keys;
    keys.pair_stride = LANES * 2;
    for (int g = 0; g < GROUPS; g++) keys.key[g] = s.key.data + g * LANES * pairs * 2;
    Query<T>::template scores<R, GROUPS, false>(s.query.data + r0 * pairs, keys, keys, pairs, s.score, SCORES);

    const i32x16 lane = lane_numbers();
    for (int r = 0; r < R; r++) {
        float *mine = s.score + r * SCORES;
        const int64_t seen = item.position + (r0 + r) / item.heads() + 1 - start;
        if (seen < TILE)
            for (int t = 0; t < TILE; t += LANES) store(mine + t, select(lane + t < (int32_t)seen, load(mine + t), splat(-INFINITY)));
        f32x16 top = load(mine);
        for (int t = LANES; t < TILE; t += LANES) top = vmax(load(mine + t), top);
        const float before = s.best.data[r0 + r], now = std::max(before, reduce_max(top) * a.scale);
        // With no score above -infinity yet, 0 stands in so that no -infinity is taken from another.
        const f32x16 added = Values<T>::weigh(mine, TILE, a.scale, now == -INFINITY ? 0.0f : now);
        s.best.data[r0 + r] = now;
        if (before == -INFINITY) {
            s.total.data[r0 + r] = added;
            continue;
        }
        const float shrink = exp2_one(before - now);
        s.total.data[r0 + r] = s.total.data[r0 + r] * shrink + added;
        float *sums = s.sums.data + (r0 + r) * width;
        if (shrink != 1.0f)
            for (int64_t i = 0; i < width; i += LANES) store(sums + i, load(sums + i) * shrink);
    }
    add_all_values<T, R>(s.score, s.value.data, TILE / Values<T>::STEP, s.sums.data + r0 * width, width);
}

template <class T> void attend(const Problem &a, const Item &item, Scratch<T> &s) {
    const int64_t heads = item.heads(), rows = item.rows(), pairs = a.pairs(), width = a.width();
    const auto head_of = [&](int64_t r) { return (item.row + r / heads) * a.heads + item.h0 + r % heads; };
    s.query.room(rows * pairs);
    std::fill_n(s.best.room(rows), rows, -INFINITY);
    std::fill_n(s.total.room(rows), rows, f32x16{});
    std::fill_n(s.sums.room(rows * width), rows * width, 0.0f);
    for (int64_t r = 0; r < rows; r++) Query<T>::pack(s.query.data + r * pairs, (const T *)a.query + head_of(r) * a.dim, a.dim);

    for (int64_t start = 0; start < item.end(); start += TILE) {
        pack<T>(a, item, start, s);
        const int64_t first = std::max<int64_t>(0, start - item.position) * heads;  // earlier rows end before the tile
        const int64_t blocks = (rows - first + ROWS - 1) / ROWS, next = std::min(TILE + start, item.end()), more = std::min<int64_t>(TILE, item.end() - next);
        for (int64_t b = 0; b < blocks; b++) {  // evenly: a row alone would wait for its own sums
            ask_for<T>(a, item, next + more * b / blocks, next + more * (b + 1) / blocks);
            const int64_t r = first + (rows - first) * b / blocks;
            switch (first + (rows - first) * (b + 1) / blocks - r) {
            case 6: absorb<T, 6>(a, item, start, r, s); break;
            case 5: absorb<T, 5>(a, item, start, r, s); break;
            case 4: absorb<T, 4>(a, item, start, r, s); break;
            case 3: absorb<T, 3>(a, item, start, r, s); break;
            case 2: absorb<T, 2>(a, item, start, r, s); break;
            case 1: absorb<T, 1>(a, item, start, r, s); break;
            }
        }
    }

    for (int64_t r = 0; r < rows; r++) {
        const f32x16 share = splat(1.0f / reduce_add(s.total.data[r]));
        T *out = (T *)a.out + head_of(r) * a.latent;
        const float *sums = s.sums.data + r * width;
        over_row(a.latent, [&](int64_t i, int n) { store_n(out + i, load(sums + i) * share, n); });
    }
}

template <class T> void attend_all(const Problem &a, int64_t num_items, int64_t parts) {
    std::atomic<int64_t> taken{0};
#pragma omp parallel
    {
        Scratch<T> s;
        for (int64_t number; (number = taken++) < num_items * parts;) attend<T>(a, find_item(a, number, parts), s);
    }
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
