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
        sort();
        match_free();
        match_half();
        exchange();
        for (int64_t i = 0, other = -1; i < count; i++)
            if (!paired[i]) other < 0 ? (void)(other = i) : (join(APART_PAIR, (int)other, (int)i, pairs++), (void)(other = -1));
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

    // The first word's |w| by -128 to 127 and the second's w by 0 to 255.
    bool fits_half(int a, int b) const { return largest[b] <= 128 && none_above(magnitude[a], room[b]); }
    static bool none_above(__m256i a, __m256i b) {
        const __m256i over = _mm256_subs_epu8(a, b);
        return _mm256_testz_si256(over, over);
    }

    // By counting, as sizes are few: 4 * 128 at most.
    void sort() {
        constexpr int MOST = 4 * 128;
        int16_t places[MOST + 2] = {};  // the first place of a size is what is larger than it
        for (int64_t i = 0; i < count; i++) places[MOST - largest[i] + 1]++;
        for (int size = 1; size <= MOST; size++) places[size] = (int16_t)(places[size] + places[size - 1]);
        for (int64_t i = 0; i < count; i++) by_size[places[MOST - largest[i]]++] = (uint8_t)i;
    }

    void join(Pairing how, int a, int b, int64_t place) {
        kind[place] = how, first[place] = (uint8_t)a, second[place] = (uint8_t)b;
        paired[a] = paired[b] = true;
    }
    bool join_half(int a, int b, int64_t place) {
        if (!fits_half(a, b)) std::swap(a, b);
        if (!fits_half(a, b)) return false;
        join(HALF_PAIR, a, b, place);
        return true;
    }
    bool can_half(int a, int b) const { return fits_half(a, b) || fits_half(b, a); }

    // The largest words first, each with the largest that it fits where rows have no sign, 0 to 255: 255 * 128 at most, and -255 * 128 at least.
    void match_free() {
        __m256i in_order[MATCHED];  // 255 everywhere, which fits nothing, of words that are paired
        const int64_t start = std::find_if(by_size, by_size + count, [&](int i) { return largest[i] <= 128; }) - by_size;
        for (int64_t i = start; i < count; i++) in_order[i] = sides[by_size[i]];
        for (int64_t i = start; i < count; i++) {
            if (paired[by_size[i]]) continue;
            const __m256i own = in_order[i], most = _mm256_set1_epi8((char)128);
            for (int64_t j = i + 1; j < count; j++)
                if (none_above(_mm256_adds_epu8(own, in_order[j]), most)) {
                    join(FREE_PAIR, by_size[i], by_size[j], pairs++);
                    in_order[j] = _mm256_set1_epi8((char)255);
                    break;
                }
        }
    }
    void match_half() {
        uint8_t left[MATCHED];
        const int64_t lefts = those_left(left);
        for (int64_t i = 0; i < lefts; i++)
            for (int64_t j = i + 1; !paired[left[i]] && j < lefts; j++)
                if (!paired[left[j]] && join_half(left[i], left[j], pairs)) pairs++;
    }
    // The words that are not paired, the largest first; how many.
    int64_t those_left(uint8_t *left) const {
        return std::copy_if(by_size, by_size + count, left, [&](int i) { return !paired[i]; }) - left;
    }

    // Two words that are left, and the first free pair that both find a place in.
    void exchange() {
        uint8_t left[MATCHED];
        const int64_t lefts = those_left(left), searched = pairs;  // what is joined here is not free
        Beside beside[MATCHED];
        for (int64_t i = 0; i < lefts; i++)
            for (int64_t j = i + 1; !paired[left[i]] && j < lefts; j++)
                if (!paired[left[j]]) exchange(left[i], left[j], beside[i], beside[j], searched);
    }

    // What a word could stand beside: the first words of pairs and the second ones, a bit each, as far as it is known yet.
    struct Beside {
        uint64_t first[(MATCHED / 2 + 63) / 64] = {}, second[(MATCHED / 2 + 63) / 64] = {};
        int64_t known = 0;
    };
    void exchange(int a, int b, Beside &of_a, Beside &of_b, int64_t searched) {
        constexpr int64_t SOME = 16;  // most often one of the first will do
        for (int64_t from = 0; from < searched; from += SOME) {
            const int64_t to = std::min(searched, from + SOME), i = from / 64;
            find_out(a, of_a, to);
            find_out(b, of_b, to);
            uint64_t found = ((of_a.first[i] & of_b.second[i]) | (of_a.second[i] & of_b.first[i])) >> from % 64 & ((1 << SOME) - 1);
            for (; found; found &= found - 1) {
                const int64_t p = from + __builtin_ctzll(found);
                if (kind[p] != FREE_PAIR) continue;
                const bool straight = of_a.first[i] & of_b.second[i] & 1ull << p % 64;
                const int c = straight ? first[p] : second[p], d = straight ? second[p] : first[p];
                join_half(a, c, p);
                join_half(b, d, pairs++);
                return;
            }
        }
    }
    void find_out(int a, Beside &of_a, int64_t to) const {
        for (int64_t p = of_a.known; p < to; p++) {
            if (kind[p] != FREE_PAIR) continue;
            of_a.first[p / 64] |= (uint64_t)can_half(a, first[p]) << p % 64;
            of_a.second[p / 64] |= (uint64_t)can_half(a, second[p]) << p % 64;
        }
        of_a.known = std::max(of_a.known, to);
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
