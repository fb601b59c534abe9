// What this machine multiplies, as kinds: Float and Int8 everywhere, Bf16 where INFER_GEMM_BF16 is defined, Widened where INFER_GEMM_WIDENED is.
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
#endif
#include "vectors.h"
