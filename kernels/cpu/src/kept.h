// How values lie in the cache, and how they are read from it.
//
// bf16     [block][kv head][token pair][dim][2]  two tokens side by side, as a dot product takes them; [token][dim] in blocks of one token
// others   [block][kv head][token][dim]
#pragma once

#include "vectors.h"

namespace infer {

// Tokens of type T that are side by side in blocks of `block_size`.
template <class T> constexpr int64_t beside(int64_t block_size) { return std::is_same_v<T, bf16> && block_size % 2 == 0 ? 2 : 1; }

// Where the value of a token begins, of `size` elements, `side` of them side by side; its elements are `side` apart.
inline int64_t value_place(int64_t token, int64_t size, int64_t side) { return token / side * side * size + token % side; }

// Stores `count` tokens' values of one head, which follow each other from token `first` of a block on. `to` is the head's place in the
// block. Of a pair one token of which is not among them the other is not touched: another thread may be storing it.
template <class T> void store_values(T *to, const T *from, int64_t first, int64_t count, int64_t size, int64_t block_size) {
    memcpy(to + first * size, from, count * size * sizeof(T));
}

inline void store_one(bf16 *to, const bf16 *from, int64_t size) {
    int64_t i = 0;
#if defined(__AVX512BW__)
    for (; i + LANES <= size; i += LANES)
        _mm512_mask_storeu_epi16(to + 2 * i, 0x55555555, _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + i))));
#endif
    for (; i < size; i++) to[2 * i] = from[i];
}

template <> inline void store_values<bf16>(bf16 *to, const bf16 *from, int64_t first, int64_t count, int64_t size, int64_t block_size) {
    if (beside<bf16>(block_size) == 1) {
        memcpy(to + first * size, from, count * size * sizeof(bf16));
        return;
    }
    for (const int64_t last = first + count; first < last;) {
        bf16 *pair = to + first / 2 * 2 * size;
        if (first % 2 == 0 && first + 1 < last) {
            for (int64_t i = 0; i < size; i++) {
                const uint32_t both = from[i].bits | (uint32_t)from[size + i].bits << 16;
                memcpy(pair + 2 * i, &both, sizeof both);
            }
            first += 2, from += 2 * size;
        } else {
            store_one(pair + first % 2, from, size);
            first++, from += size;
        }
    }
}

}  // namespace infer
