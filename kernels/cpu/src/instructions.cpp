// The instructions that this build multiplies with, in words, and the compiler that made it: for `infer doctor`.
#include <cstdio>

#include "gemm/kinds.h"

namespace {

#if defined(__clang__)
const char *const COMPILER = "clang " __clang_version__;
#else
const char *const COMPILER = "GCC " __VERSION__;
#endif

#if defined(__AVX512F__)
const char *const FLOAT = "AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
const char *const FLOAT = "AVX2 with FMA";
#elif defined(__AVX2__)
const char *const FLOAT = "AVX2";
#elif defined(__aarch64__)
const char *const FLOAT = "NEON";
#elif defined(__SSE2__)
const char *const FLOAT = "SSE2";
#else
const char *const FLOAT = "the compiler's vectors";
#endif

// Empty: there are no products of it.
#if !defined(INFER_GEMM_BF16)
const char *const BF16 = "";
#elif defined(__aarch64__)
const char *const BF16 = "NEON bfmmla";
#else
const char *const BF16 = "AVX-512 vdpbf16ps";
#endif

#if defined(__AVX512VNNI__)
const char *const BYTES = "AVX-512 vpdpbusd";
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
const char *const BYTES = "AVX-VNNI vpdpbusd";
#elif defined(__AVX512BW__)
const char *const BYTES = "AVX-512 vpmaddubsw";
#elif defined(__AVX2__)
const char *const BYTES = "AVX2 vpmaddubsw";
#elif defined(__SSSE3__)
const char *const BYTES = "SSSE3 pmaddubsw";
#elif defined(__SSE2__)
const char *const BYTES = "SSE2 pmaddwd";
#elif defined(__ARM_FEATURE_MATMUL_INT8)
const char *const BYTES = "NEON usmmla";
#elif defined(__ARM_FEATURE_DOTPROD)
const char *const BYTES = "NEON sdot";
#elif defined(__aarch64__)
const char *const BYTES = "NEON smull";
#else
const char *const BYTES = "the compiler's vectors";
#endif

// As attention.cpp and codes.h choose.
#if defined(__AVX512BF16__)
const char *const ATTENTION_BF16 = "AVX-512 vdpbf16ps";
#else
const char *const ATTENTION_BF16 = FLOAT;
#endif
#if defined(__AVX512VNNI__)
const char *const ATTENTION_INT8 = "AVX-512 vpdpbusd";
#elif defined(__AVX512BW__)
const char *const ATTENTION_INT8 = "AVX-512 vpmaddwd";
#elif defined(__AVX2__)
const char *const ATTENTION_INT8 = "AVX2 vpmaddwd";
#elif defined(__SSE2__)
const char *const ATTENTION_INT8 = "SSE2 pmaddwd";
#else
const char *const ATTENTION_INT8 = FLOAT;
#endif

}  // namespace

// Writes lines to text [size], zero at the end: the compiler, products of float32, bf16 and int8, attention in float32, bf16 and over int8.
extern "C" void infer_instructions(char *text, int64_t size) {
    snprintf(text, size, "%s\n%s\n%s\n%s\n%s\n%s\n%s", COMPILER, FLOAT, BF16, BYTES, FLOAT, ATTENTION_BF16, ATTENTION_INT8);
}
