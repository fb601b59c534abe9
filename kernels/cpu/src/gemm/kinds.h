// What this machine multiplies, as kinds: Float and Int8 everywhere, Bf16 where INFER_GEMM_BF16 is defined, Widened where INFER_GEMM_WIDENED is.
// With INFER_GEMM_PAIRS Int8 is a name alone: its products are in pairs.h.
//
// A kind has
//   Sum           of 16 features of a row
//   Row           a word of a row, for all features
//   Weights       a word of k of 16 features
//   Finish        what becomes of a sum, see finish.h
//   VALUES        words of a row by which a word of the weight is multiplied, one after the other
//   STRETCH       for blocks.h: words that are summed before they join the rest, where one long sum would lose a digit of float32; else 0
//   spread(x), load(panel)   from memory; load(panel, value) where there are several VALUES
//   dot(sum, x, w)           sum + x * w
//   soon(g, column)          has fetched meanwhile what Finish will read
#pragma once

#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__aarch64__)
#include "neon.h"
#elif defined(__AVX2__) && !defined(__AVXVNNI__)
#include "pairs.h"
#endif
#include "vectors.h"

namespace infer {

// Bytes that a panel of int8 has after its words.
inline int64_t int8_tail(int64_t words) {
#if defined(INFER_GEMM_PAIRS)
    return PANEL / PART * Part(words).bytes() - words * PANEL * 4;
#else
    (void)words;
    return 0;
#endif
}

}  // namespace infer
