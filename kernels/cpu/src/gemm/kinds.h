// What this machine multiplies, as kinds: Float and Int8 everywhere, Bf16 where INFER_GEMM_BF16 is defined.
//
// A kind has
//   Sum           of 16 features of a row
//   Row           a word of a row, for all features
//   Weights       a word of k of 16 features
//   Finish        what becomes of a sum, see finish.h
//   STRETCH       words that are summed before they join the rest, where one long sum would lose a digit of float32; else 0
//   spread(x), load(panel)   from memory
//   dot(sum, x, w)           sum + x * w
//   SATURATES     if sums may: then there are spread_signed and careful_dot too, see order.h
//   soon(g, column)          has fetched meanwhile what Finish will read
#pragma once

#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__aarch64__)
#include "neon.h"
#endif
#include "vectors.h"
