// Norms, activations, rotation and attention checked against what test_arm.py wrote: FOLDER. Exit status 0 if all is as it should be.
#include "read_vectors.h"

#include "attention_items.h"

extern "C" {
void infer_set_threads(int64_t count);
void infer_rms_norm(const void *x, const float *x_scale, void *residual, const void *weight, void *out, float *out_scale, int64_t rows,
                    int64_t size, int64_t dtype, int64_t weight_dtype, float eps);
void infer_quantize(const void *x, void *out, float *scale, int64_t rows, int64_t size, int64_t dtype);
void infer_activation(const void *x, const float *x_scale, void *out, float *out_scale, int64_t rows, int64_t size, int64_t dtype, int64_t kind,
                      int64_t gated);
void infer_rope_and_store(const void *qkv, const float *scale, int64_t stride, const int64_t *positions, const float *cos, const float *sin,
                          const void *norm_q, const void *norm_k, void *query, int64_t rotated, void *key, void *value, int64_t block_size,
                          const int64_t *slots, int64_t rows, int64_t stored, int64_t heads, int64_t kv_heads, int64_t dim, int64_t dtype,
                          int64_t cache_dtype, int64_t norm_dtype, float eps);
void infer_plan_attention(infer::Member *members, infer::Run *runs, infer::ItemParts *items, int32_t *counts, const int32_t *query_start,
                          const int32_t *kv_lens, const int32_t *tables, const int32_t *spans, int64_t table_stride, int64_t num_sequences,
                          int64_t block_size, int64_t group, int64_t most_rows, int64_t together);
void infer_attention(void *out, const void *query, const void *key, const void *value, const int32_t *query_start, const int32_t *kv_lens,
                     const int32_t *tables, const int32_t *spans, int64_t table_stride, const infer::Member *members,
                     const infer::Run *runs, const infer::ItemParts *items, int64_t num_items, int64_t heads_together, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, int64_t block_size, int64_t window, float scale, float soft_cap, const float *alibi, const float *sinks,
                     const float *distances, int64_t of_head, int64_t dtype, int64_t cache_dtype);
void infer_segment_attention(void *out, const void *qkv, const float *row_scale, const int64_t *positions, const float *cos, const float *sin,
                             int64_t rotated, const int32_t *starts, const int32_t *items, int64_t count, int64_t num_heads,
                             int64_t num_kv_heads, int64_t head_dim, int64_t window, float scale, float soft_cap, const float *alibi,
                             const float *sinks, const float *bias, const int64_t *places, int64_t dtype);
}

// One type's share of the vectors.
struct Step {
    int64_t dtype, cache_dtype;
    std::string type;  // of the names of files
    double most;       // relative error
    int64_t rows, size, heads, kv_heads, dim, block_size, blocks, sequences, stride;
    bool right = true;

    bool wide() const { return dtype == 0; }
    Bytes file(const char *name) const { return read<char>((name + type).c_str()); }
    Bytes room(int64_t count) const { return Bytes(count * (wide() ? 4 : 2)); }
    std::vector<float> floats(const Bytes &bytes) const { return wide() ? as_floats<float>(bytes) : as_floats<uint16_t>(bytes); }
    void check(const char *name, const Bytes &got, const char *expected) {
        right &= near((name + type).c_str(), floats(got), floats(file(expected)), most);
    }

    void rowwise() {
        Bytes x = file("x"), residual = file("residual"), out = room(rows * size);
        infer_rms_norm(x.data(), nullptr, residual.data(), file("norm").data(), out.data(), nullptr, rows, size, dtype, dtype, 1e-5f);
        check("rms_norm", out, "normed"), check("sum", residual, "sum");
        Bytes gated = room(rows * size / 2);
        for (const auto &[name, kind] : {std::pair{"silu", 0}, {"gelu", 1}, {"gelu_tanh", 2}}) {
            infer_activation(x.data(), nullptr, gated.data(), nullptr, rows, size / 2, dtype, kind, 1);
            check(name, gated, name);
        }
        Bytes codes(rows * size), scale(rows * 4);
        infer_quantize(x.data(), codes.data(), (float *)scale.data(), rows, size, dtype);
        const bool same = codes == file("codes") && scale == file("code_scale");
        printf("quantized%s: %s\n", type.c_str(), same ? "the reference's bits" : "not the reference's bits");
        right &= same;
    }

    // The queries of `starts` (their numbers, sequence by sequence) attend to the whole cache.
    Bytes attended(const Bytes &query, const Bytes &key, const Bytes &value, const std::vector<int32_t> &starts) const {
        const auto lens = read<int32_t>("kv_lens"), tables = read<int32_t>("tables");
        const int64_t group = heads / kv_heads, most = starts.back() + sequences;
        std::vector<infer::Member> members(most);
        std::vector<infer::Run> runs(2 * most);
        std::vector<infer::ItemParts> items(most);
        int32_t counts[3];
        infer_plan_attention(members.data(), runs.data(), items.data(), counts, starts.data(), lens.data(), tables.data(), nullptr, stride, sequences,
                             block_size, group, 48, 48);
        Bytes out = room(starts.back() * heads * dim);
        infer_attention(out.data(), query.data(), key.data(), value.data(), starts.data(), lens.data(), tables.data(), nullptr, stride, members.data(),
                        runs.data(), items.data(), counts[0], kv_heads, heads, kv_heads, dim, block_size, 0, 0.2f, 0.0f, nullptr, nullptr, nullptr, 0, dtype,
                        cache_dtype);
        return out;
    }

    void attention() {
        const auto starts = read<int32_t>("query_start");
        const auto positions = read<int64_t>("positions"), slots = read<int64_t>("slots");
        const auto cos = read<float>("cos"), sin = read<float>("sin");
        const int64_t tokens = starts.back(), width = heads * dim;
        const Bytes qkv = file("qkv"), head_norm = file("head_norm");
        Bytes query = room(tokens * width), key(blocks * kv_heads * block_size * (dim + 4) * 4), value = key;
        infer_rope_and_store(qkv.data(), nullptr, (heads + 2 * kv_heads) * dim, positions.data(), cos.data(), sin.data(), head_norm.data(),
                             head_norm.data(), query.data(), dim / 2, key.data(), value.data(), block_size, slots.data(), tokens, tokens, heads,
                             kv_heads, dim, dtype, cache_dtype, dtype, 1e-5f);
        const Bytes out = attended(query, key, value, starts);
        if (cache_dtype == dtype) {
            check("query", query, "query"), check("attention", out, "attention");
        } else {
            right &= near("attention, int8 cache", floats(out), floats(file("attention_int8")), 2e-2);
        }

        // The last token of each sequence as in a step of its own.
        const int64_t bytes = out.size() / tokens;
        Bytes last;
        std::vector<int32_t> ones{0};
        for (int64_t s = 0; s < sequences; s++) {
            last.insert(last.end(), query.begin() + (starts[s + 1] - 1) * bytes, query.begin() + starts[s + 1] * bytes);
            ones.push_back(ones.back() + 1);
        }
        const Bytes alone = attended(last, key, value, ones);
        for (int64_t s = 0; s < sequences; s++)
            if (memcmp(alone.data() + s * bytes, out.data() + (starts[s + 1] - 1) * bytes, bytes)) right = false, printf("the last token alone differs\n");

        if (cache_dtype != dtype) return;
        std::vector<int32_t> items;
        for (int32_t s = 0; s < sequences; s++)
            for (const int32_t number : {s, 0, (int32_t)kv_heads, 0, starts[s + 1] - starts[s]}) items.push_back(number);
        Bytes whole = room(tokens * width);
        infer_segment_attention(whole.data(), qkv.data(), nullptr, positions.data(), cos.data(), sin.data(), dim / 2, starts.data(), items.data(), sequences,
                                heads, kv_heads, dim, 0, 0.2f, 0.0f, nullptr, nullptr, nullptr, nullptr, dtype);
        check("segments", whole, "segments");
    }
};

int main(int, char **arguments) {
    folder = arguments[1];
    infer_set_threads(2);
    const auto n = read<int64_t>("sizes");
    bool right = true;
    for (Step step : {Step{0, 0, "", 2e-6}, {1, 1, "_bf16", 6e-3}, {0, 3, "", 0}}) {
        step.rows = n[0], step.size = n[1], step.heads = n[2], step.kv_heads = n[3], step.dim = n[4], step.block_size = n[5];
        step.blocks = n[6], step.sequences = n[7], step.stride = n[8];
        if (step.cache_dtype == step.dtype) step.rowwise();
        step.attention();
        right &= step.right;
    }
    return right ? 0 : 1;
}
