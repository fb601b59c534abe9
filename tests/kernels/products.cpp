// Matrix multiplication checked against what test_arm.py wrote: FOLDER. Exit status 0 if all is as it should be.
#include "read_vectors.h"

extern "C" {
void infer_gemm_kinds(int64_t *kinds);
void infer_gemm_pack(uint32_t *panels, const uint32_t *weight, int64_t n, int64_t words, int64_t half);
void infer_gemm_int8_tail(int64_t *tail, int64_t words);
void infer_gemm_pack_int8(uint32_t *panels, int32_t *sums, const char *weight, int64_t n, int64_t words, int64_t half);
void infer_gemm(void *out, const void *x, const void *panels, const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype,
                int64_t widened, int64_t bias_dtype, int64_t half, int64_t gate);
void infer_gemm_int8(void *out, const void *x, const void *panels, const float *scale, const int32_t *sums, const float *row_scale,
                     const void *bias, const float *gate_scale, int64_t rows, int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype,
                     int64_t half, int64_t gate, int64_t gate_wide);
}

static std::vector<uint32_t> packed(const void *weight, int64_t n, int64_t words) {
    std::vector<uint32_t> panels((n + 31) / 32 * 32 * words);
    infer_gemm_pack(panels.data(), (const uint32_t *)weight, n, words, 0);
    return panels;
}

int main(int, char **arguments) {
    folder = arguments[1];
    int64_t kinds;
    infer_gemm_kinds(&kinds);
    const auto shape = read<int64_t>("shape");
    const int64_t rows = shape[0], n = shape[1], k = shape[2];
    const auto bias = read<float>("bias");
    std::vector<float> out(rows * n);
    bool right = true;

    const auto x = read<float>("x"), weight = read<float>("weight");
    const auto panels = packed(weight.data(), n, k);
    infer_gemm(out.data(), x.data(), panels.data(), bias.data(), rows, n, k, 0, 0, 0, 0, -1);
    right &= near("float32", out, read<float>("out"), 1e-6);
    for (int64_t row = 0; row < rows; row++) {
        std::vector<float> alone(n);
        infer_gemm(alone.data(), x.data() + row * k, panels.data(), bias.data(), 1, n, k, 0, 0, 0, 0, -1);
        if (memcmp(alone.data(), out.data() + row * n, n * sizeof(float))) right = false, printf("row %d alone differs\n", (int)row);
    }

    const auto expected = read<float>("out_int8");
    int64_t tail;
    infer_gemm_int8_tail(&tail, k / 4);
    std::vector<uint32_t> codes((n + 31) / 32 * 32 * (k / 4 + tail));
    std::vector<int32_t> sums(n);
    infer_gemm_pack_int8(codes.data(), sums.data(), read<char>("weight_int8").data(), n, k / 4, 0);
    infer_gemm_int8(out.data(), read<uint8_t>("x_int8").data(), codes.data(), read<float>("scale_int8").data(), sums.data(),
                    read<float>("row_scale_int8").data(), bias.data(), nullptr, rows, n, k / 4, 0, 0, 0, -1, 0);
    const bool same = !memcmp(out.data(), expected.data(), out.size() * sizeof(float));
    printf("int8: %s\n", same ? "the reference's bits" : "not the reference's bits");
    right &= same;

    for (int64_t row = 0; row < rows; row++) {
        std::vector<float> alone(n);
        infer_gemm_int8(alone.data(), read<uint8_t>("x_int8").data() + row * k, codes.data(), read<float>("scale_int8").data(), sums.data(),
                        read<float>("row_scale_int8").data() + row, bias.data(), nullptr, 1, n, k / 4, 0, 0, 0, -1, 0);
        if (memcmp(alone.data(), out.data() + row * n, n * sizeof(float))) right = false, printf("int8 row %d alone differs\n", (int)row);
    }

    if (kinds & 1) {
        Bytes narrow(rows * n * 2);
        infer_gemm(narrow.data(), read<uint16_t>("x_bf16").data(), packed(read<uint16_t>("weight_bf16").data(), n, k / 2).data(), nullptr, rows, n,
                   k / 2, 1, 0, 0, 0, -1);
        // In blocks of any number of rows each has the same bits, and where words are odd.
        for (int64_t count = 1; count <= rows; count++)
            for (int64_t words : {k / 2, k / 2 - 1}) {
                const auto x16 = read<uint16_t>("x_bf16"), w16 = read<uint16_t>("weight_bf16");
                std::vector<uint32_t> shorter(rows * words), less(n * words);
                for (int64_t i = 0; i < rows; i++) memcpy(shorter.data() + i * words, x16.data() + i * k, words * 4);
                for (int64_t i = 0; i < n; i++) memcpy(less.data() + i * words, w16.data() + i * k, words * 4);
                const auto packed_less = packed(less.data(), n, words);
                Bytes all(rows * n * 2), some(count * n * 2);
                infer_gemm(all.data(), shorter.data(), packed_less.data(), nullptr, rows, n, words, 1, 0, 0, 0, -1);
                infer_gemm(some.data(), shorter.data(), packed_less.data(), nullptr, count, n, words, 1, 0, 0, 0, -1);
                if (memcmp(some.data(), all.data(), some.size())) right = false, printf("bf16: %d rows differ from all\n", (int)count);
            }
        right &= near("bf16", as_floats<uint16_t>(narrow), read<float>("out_bf16"), 5e-3);
    }
    return right ? 0 : 1;
}
