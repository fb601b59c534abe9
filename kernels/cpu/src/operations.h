// Operations that Python calls, for those that are made of several of them (layer.cpp). What they take is said where they are defined.
#pragma once

#include <cstdint>

namespace infer {
struct Member;
struct Run;
struct ItemParts;
}  // namespace infer

extern "C" {
void infer_rms_norm(const void *x, const float *x_scale, void *residual, const void *weight, void *out, float *out_scale, int64_t rows, int64_t size,
                    int64_t dtype, int64_t weight_dtype, float eps);
void infer_layer_norm(const void *x, const float *x_scale, void *residual, const void *weight, const void *bias, void *out, float *out_scale,
                      int64_t rows, int64_t size, int64_t dtype, int64_t weight_dtype, float eps);
void infer_gemm(void *out, const void *x, const void *panels, const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype,
                int64_t widened, int64_t bias_dtype, int64_t half, int64_t gate);
void infer_gemm_int8(void *out, const void *x, const void *panels, const float *scale, const int32_t *sums, const float *row_scale, const void *bias,
                     const float *gate_scale, int64_t rows, int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype, int64_t half, int64_t gate,
                     int64_t gate_wide);
void infer_quantize(const void *x, void *out, float *scale, int64_t rows, int64_t size, int64_t dtype);
void infer_rope_and_store(const void *qkv, const float *scale, int64_t stride, const int64_t *positions, const float *cos, const float *sin,
                          const void *norm_q, const void *norm_k, void *query, int64_t rotated, void *key, void *value, int64_t block_size,
                          const int64_t *slots, int64_t rows, int64_t stored, int64_t heads, int64_t kv_heads, int64_t dim, int64_t dtype,
                          int64_t cache_dtype, int64_t norm_dtype, float eps);
void infer_attention(void *out, const void *query, const void *key, const void *value, const int32_t *query_start, const int32_t *kv_lens,
                     const int32_t *tables, const int32_t *spans, int64_t table_stride, const infer::Member *members, const infer::Run *runs,
                     const infer::ItemParts *items, int64_t num_items, int64_t heads_together, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, int64_t block_size, int64_t window, float scale, float soft_cap, const float *alibi, const float *sinks,
                     const float *distances, int64_t of_head, int64_t dtype, int64_t cache_dtype);
void infer_activation(const void *x, const float *x_scale, void *out, float *out_scale, int64_t rows, int64_t size, int64_t dtype, int64_t kind,
                      int64_t gated);
}
