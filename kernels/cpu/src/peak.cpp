// How fast products can be here at most: a block's sums in registers, rows and weights that never leave the first cache, and nothing written.

#include "gemm.h"
#include "gemm/kinds.h"
#include "parallel.h"

namespace infer {
namespace {

// Words of a row that are gone through again and again.
constexpr int WORDS = 16;

// Returns a number that depends on all products, so that no compiler leaves one out.
template <class Kind> float spin(int64_t rounds) {
    constexpr int H = WHOLE_ROWS == MOST_ROWS ? 2 : 1;
    alignas(64) char rows[MOST_ROWS][WORDS * 4] = {}, panel[WORDS][H][LANES * 4] = {};
    asm volatile("" : : "r"(rows), "r"(panel) : "memory");  // who knows what is in them
    typename Kind::Sum sum[MOST_ROWS][H] = {};
    for (int64_t round = 0; round < rounds; round++)
        for (int k = 0; k < WORDS; k++) {
            typename Kind::Weights w[H];
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) w[h] = Kind::load(panel[k][h]);
#pragma GCC unroll 12
            for (int r = 0; r < MOST_ROWS; r++) {
                const typename Kind::Row x = Kind::spread(rows[r] + k * 4);
#pragma GCC unroll 2
                for (int h = 0; h < H; h++) sum[r][h] = Kind::dot(sum[r][h], x, w[h]);
            }
        }
    float all = 0;
    for (int r = 0; r < MOST_ROWS; r++)
        for (int h = 0; h < H; h++) {
            alignas(64) float lanes[LANES];
            memcpy(lanes, &sum[r][h], sizeof lanes);
            for (float lane : lanes) all += lane;
        }
    return all;
}

#if defined(INFER_GEMM_PAIRS)
// By pairs of the best kind.
template <> float spin<Int8>(int64_t rounds) {
    constexpr int R = MOST_ROWS, PAIRS = WORDS * LANES / PART / 2;
    alignas(64) char rows[R][WORDS * 4] = {}, weights[PAIRS][2 * PART * 4] = {};
    uint16_t order[2 * PAIRS];
    for (int i = 0; i < 2 * PAIRS; i++) order[i] = (uint16_t)(i % WORDS);
    const char *x[R];
    for (int r = 0; r < R; r++) x[r] = rows[r];
    i32x8 sum[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[r] = i32x8{};
    for (int64_t round = 0; round < rounds; round++) {
        asm volatile("" : : "r"(rows), "r"(weights), "r"(order) : "memory");
        Way way{weights[0], order};
        add_pairs<FREE_PAIR>(sum, x, way, PAIRS);
    }
    int32_t lanes[R][PART];  // read as memory, which sums in registers are not
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) write(lanes[r], sum[r]);
    float all = 0;
    for (const auto &row : lanes)
        for (const int32_t lane : row) all += (float)lane;
    return all;
}
#endif

// `pieces` times so many rounds by all threads; returns additions and multiplications of values, `values` of which are a word.
template <class Kind> int64_t spin_all(int64_t pieces, int64_t rounds, int64_t values, float *out) {
    parallel_for(pieces, 1, [&](int64_t i) { out[i] = spin<Kind>(rounds); });
    return 2 * pieces * rounds * WORDS * MOST_ROWS * (WHOLE_ROWS == MOST_ROWS ? 2 : 1) * LANES * values;
}

}  // namespace
}  // namespace infer

// Products of `kind`, one of `infer_gemm_kinds`, in `pieces` that threads share, each of so many rounds. out [pieces] means nothing;
// done [1] becomes the number of additions and multiplications.
extern "C" void infer_gemm_peak(float *out, int64_t *done, int64_t kind, int64_t pieces, int64_t rounds) {
    using namespace infer;
    *done = 0;
    if (kind == 2) *done = spin_all<Int8>(pieces, rounds, 4, out);
    if (kind == 4) *done = spin_all<Float>(pieces, rounds, 1, out);
#if defined(INFER_GEMM_BF16)
    if (kind == 1) *done = spin_all<Bf16>(pieces, rounds, 2, out);
#endif
}
