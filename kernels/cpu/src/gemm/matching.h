// How words of an int8 weight are put together in pairs, see pairs.h: once, as a weight is packed.
#pragma once

#include <algorithm>
#include <cstdint>

#include <immintrin.h>

#include "pairs.h"

namespace infer {

// Words among which each finds its other one: more find a better one, and take longer.
constexpr int64_t MATCHED = 160;

// Some words of a part, and how they are paired.
class Matching {
  public:
    // Words `at(0)` to `at(count - 1)`, each of 8 features by 4; `count` is even.
    template <class At> Matching(int64_t count, const At &at) : count(count) {
        for (int64_t i = 0; i < count; i++) measure(i, at(i));
        for (int64_t i = 0; i < count; i++) by_size[i] = (uint8_t)i;
        std::stable_sort(by_size, by_size + count, [&](int a, int b) { return largest[a] > largest[b]; });
        match_free();
        match_half();
        exchange();
        for (int64_t i = 0, other = -1; i < count; i++)
            if (!paired[i]) other < 0 ? (void)(other = i) : (join(APART_PAIR, (int)other, (int)i), (void)(other = -1));
    }

    // Calls `each(kind, first, second)` for all pairs.
    template <class Each> void for_each(const Each &each) const {
        for (int64_t i = 0; i < pairs; i++) each(kind[i], first[i], second[i]);
    }

  private:
    // Where a sum of four products in 16 bits stays there: by the weights above zero of the two words that go into it, and those below it.
    void measure(int64_t i, __m256i word) {
        const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
        const __m256i above = _mm256_maddubs_epi16(_mm256_max_epi8(word, zero), one);
        const __m256i below = _mm256_maddubs_epi16(_mm256_abs_epi8(_mm256_min_epi8(word, zero)), one), most = _mm256_max_epi16(above, below);
        const __m256i all = _mm256_add_epi16(above, below), left = _mm256_sub_epi16(_mm256_set1_epi16(256), _mm256_slli_epi16(most, 1));
        sides[i] = _mm256_packus_epi16(above, below);
        magnitude[i] = _mm256_packus_epi16(all, all);
        room[i] = _mm256_packus_epi16(left, left);
        alignas(32) int16_t sums[16];
        _mm256_store_si256((__m256i *)sums, most);
        largest[i] = *std::max_element(sums, sums + 16);
    }

    // Rows without a sign, 0 to 255: 255 * 128 at most, and -255 * 128 at least.
    bool fits_free(int a, int b) const { return none_above(_mm256_adds_epu8(sides[a], sides[b]), _mm256_set1_epi8((char)128)); }
    // The first word's |w| by -128 to 127 and the second's w by 0 to 255.
    bool fits_half(int a, int b) const { return largest[b] <= 128 && none_above(magnitude[a], room[b]); }
    static bool none_above(__m256i a, __m256i b) {
        const __m256i over = _mm256_subs_epu8(a, b);
        return _mm256_testz_si256(over, over);
    }

    void join(Pairing how, int a, int b) {
        kind[pairs] = how, first[pairs] = (uint8_t)a, second[pairs++] = (uint8_t)b;
        paired[a] = paired[b] = true;
    }
    bool join_half(int a, int b) {
        if (fits_half(a, b)) return join(HALF_PAIR, a, b), true;
        if (fits_half(b, a)) return join(HALF_PAIR, b, a), true;
        return false;
    }
    bool can_half(int a, int b) const { return fits_half(a, b) || fits_half(b, a); }

    // The largest words first, each with the largest that it fits.
    void match_free() {
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = i + 1; !paired[by_size[i]] && largest[by_size[i]] <= 128 && j < count; j++)
                if (!paired[by_size[j]] && fits_free(by_size[i], by_size[j])) join(FREE_PAIR, by_size[i], by_size[j]);
    }
    void match_half() {
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = i + 1; !paired[by_size[i]] && j < count; j++)
                if (!paired[by_size[j]]) join_half(by_size[i], by_size[j]);
    }
    // Two words that are left, and a free pair that both find a place in.
    void exchange() {
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = i + 1; !paired[by_size[i]] && j < count; j++)
                if (!paired[by_size[j]]) exchange(by_size[i], by_size[j]);
    }
    void exchange(int a, int b) {
        for (int64_t p = 0; p < pairs; p++) {
            if (kind[p] != FREE_PAIR) continue;
            int c = first[p], d = second[p];
            if (!can_half(a, c) || !can_half(b, d)) std::swap(c, d);
            if (!can_half(a, c) || !can_half(b, d)) continue;
            kind[p] = kind[--pairs], first[p] = first[pairs], second[p] = second[pairs];
            join_half(a, c);
            join_half(b, d);
            return;
        }
    }

    const int64_t count;
    int64_t pairs = 0;
    __m256i sides[MATCHED], magnitude[MATCHED], room[MATCHED];
    int16_t largest[MATCHED];
    uint8_t by_size[MATCHED], first[MATCHED / 2], second[MATCHED / 2];
    Pairing kind[MATCHED / 2];
    bool paired[MATCHED] = {};
};

}  // namespace infer
