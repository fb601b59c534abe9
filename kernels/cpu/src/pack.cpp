// Weights as gemm.cpp reads them.

#include <algorithm>
#include <cstdlib>

#include "gemm.h"
#include "gemm/kinds.h"
#if defined(INFER_GEMM_PAIRS)
#include "gemm/matching.h"
#endif
#include "parallel.h"

namespace infer {
namespace {

// weight [n][words] -> panels [panels][words][32], zeros beyond n, or beyond each half of n if `half` is not 0 (see Gemm).
void pack(uint32_t *panels, const uint32_t *weight, int64_t n, int64_t words, int64_t half) {
    Gemm g{};
    g.n = n, g.half = half;
    const int64_t end = half ? half : n;
    parallel_for(g.panels(), 1, [&](int64_t p) {
        for (int64_t k = 0; k < words; k++)
            for (int64_t i = 0; i < PANEL; i++) {
                const int64_t second = i / LANES, lane = i % LANES, in = g.column(p) + (half ? lane : i);
                const int64_t place = APART ? ((2 * p + second) * words + k) * LANES + lane : (p * words + k) * PANEL + i;
                panels[place] = in < end ? weight[(half ? second * half + in : in) * words + k] : 0;
            }
    });
}

#if defined(INFER_GEMM_PAIRS)
// A part of a panel, of features [first, n) of which there may be fewer than 8; see pairs.h. Fills sums [features] too.
void pack_part(char *part, int32_t *sums, const char *weight, int64_t features, int64_t words) {
    const Part sizes(words);
    const auto word = [&](int64_t k) {
        alignas(32) int32_t all[PART] = {};
        for (int64_t i = 0; i < features && k < words; i++) memcpy(all + i, weight + (i * words + k) * 4, 4);
        return _mm256_load_si256((const __m256i *)all);
    };
    const int64_t most = sizes.words / 2, blocks = (sizes.words + MATCHED - 1) / MATCHED;
    struct Pair {
        int64_t words[2];
        Pairing kind;
    } *pairs = (Pair *)malloc(most * sizeof(Pair));
    int32_t counts[3] = {};
    for (int64_t b = 0, at = 0; b < blocks; b++) {
        const int64_t from = most * b / blocks * 2, count = most * (b + 1) / blocks * 2 - from;
        const Matching matching(count, [&](int64_t i) { return word(from + i); });
        matching.for_each([&](Pairing kind, int64_t first, int64_t second) {
            pairs[at++] = {{from + first, from + second}, kind};
            counts[kind]++;
        });
    }
    memset(part, 0, sizes.bytes());
    memcpy(part, counts, sizeof counts);
    int64_t places[3] = {0, counts[0], counts[0] + counts[1]};
    __m256i sum = _mm256_setzero_si256();
    for (int64_t at = 0; at < most; at++)
        for (int64_t i = 0, place = 2 * places[pairs[at].kind]++; i < 2; i++, place++) {
            const int64_t k = pairs[at].words[i];
            const __m256i w = word(k);
            _mm256_storeu_si256((__m256i *)(part + sizes.weights() + place * PART * 4), w);
            ((uint16_t *)(part + Part::ORDER))[place] = (uint16_t)(k < words ? k : 0);  // what makes them even is zero
            // What products have too much: the offset of rows as they come, or 1 for each weight that is flipped.
            const bool as_is = pairs[at].kind == FREE_PAIR || (pairs[at].kind == HALF_PAIR && i);
            const __m256i bytes = as_is ? w : _mm256_min_epi8(w, _mm256_setzero_si256());
            const __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
            sum = _mm256_add_epi32(sum, as_is ? _mm256_slli_epi32(four, 7) : four);
        }
    free(pairs);
    alignas(32) int32_t lanes[PART];
    _mm256_store_si256((__m256i *)lanes, sum);
    memcpy(sums, lanes, features * sizeof(int32_t));
}
#endif

}  // namespace
}  // namespace infer

// What this build multiplies: 1 bf16, 2 int8, 4 float32, 16 float32 by weights kept as bf16.
extern "C" void infer_gemm_kinds(int64_t *kinds) {
    *kinds = 2 | 4;
#if defined(INFER_GEMM_BF16)
    *kinds |= 1;
#endif
#if defined(INFER_GEMM_WIDENED)
    *kinds |= 16;
#endif
}

// fits [1] becomes 1 if bf16 has all of these float32 values, else 0.
extern "C" void infer_gemm_fits_bf16(int64_t *fits, const uint32_t *values, int64_t count) {
    *fits = std::all_of(values, values + count, [](uint32_t bits) { return (bits & 0xffff) == 0; });
}

// weight [n][words * 4 bytes] -> panels [panels][words][32] words, with `half` for products of two halves (see Gemm).
extern "C" void infer_gemm_pack(uint32_t *panels, const uint32_t *weight, int64_t n, int64_t words, int64_t half) {
    infer::pack(panels, weight, n, words, half);
}

// tail [1] becomes the number of words by 32 that a panel of int8 has beyond those of a row.
extern "C" void infer_gemm_int8_tail(int64_t *tail, int64_t words) { *tail = infer::int8_tail(words) / (infer::PANEL * 4); }

// The same of int8 [n][words * 4], and sums [n], see Gemm.
extern "C" void infer_gemm_pack_int8(uint32_t *panels, int32_t *sums, const char *weight, int64_t n, int64_t words, int64_t half) {
    using namespace infer;
#if defined(INFER_GEMM_PAIRS)
    Gemm g{};
    g.n = n, g.half = half;
    constexpr int64_t PARTS = PANEL / PART, EACH = LANES / PART;
    const int64_t bytes = Part(words).bytes();
    parallel_for(g.panels() * PARTS, 1, [&](int64_t i) {
        const int64_t column = g.column(i / PARTS), second = i % PARTS / EACH, within = i % EACH * PART;
        const int64_t first = (second ? g.other(column) : column) + within, end = half && !second ? half : n;
        const int64_t features = std::clamp<int64_t>(end - first, 0, PART);
        pack_part((char *)panels + i * bytes, sums + std::min(first, n), weight + first * words * 4, features, words);
    });
#else
    pack(panels, (const uint32_t *)weight, n, words, half);
    parallel_for(n, 16, [&](int64_t i) {
        int32_t sum = 0;
        for (int64_t k = 0; k < words * 4; k++) {
            const int32_t w = (int8_t)weight[i * words * 4 + k];
#if defined(INFER_GEMM_FLIPS)
            sum += std::min(w, 0);
#else
            sum += 128 * w;
#endif
        }
        sums[i] = sum;
    });
#endif
}
