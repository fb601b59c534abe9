// What test_arm.py wrote, for the programs that it runs.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static std::string folder;

typedef std::vector<char> Bytes;

template <class T> std::vector<T> read(const char *name) {
    FILE *file = fopen((folder + "/" + name).c_str(), "rb");
    if (!file) perror(name), exit(2);
    fseek(file, 0, SEEK_END);
    std::vector<T> values(ftell(file) / sizeof(T));
    rewind(file);
    if (fread(values.data(), sizeof(T), values.size(), file) != values.size()) exit(2);
    fclose(file);
    return values;
}

// Numbers of float32, or of bf16 by their bits.
template <class T> std::vector<float> as_floats(const Bytes &bytes) {
    std::vector<float> values(bytes.size() / sizeof(T));
    for (size_t i = 0; i < values.size(); i++) memcpy((char *)&values[i] + 4 - sizeof(T), bytes.data() + i * sizeof(T), sizeof(T));
    return values;
}

// Prints the relative error; true if it is below `most`.
static bool near(const char *name, const std::vector<float> &got, const std::vector<float> &expected, double most) {
    double error = 0, size = 0;
    if (got.size() != expected.size()) return printf("%s: %zu numbers in place of %zu\n", name, got.size(), expected.size()), false;
    for (size_t i = 0; i < got.size(); i++) error += std::pow(got[i] - expected[i], 2), size += std::pow(expected[i], 2);
    printf("%s: error %.2g\n", name, std::sqrt(error / size));
    return std::sqrt(error / size) < most;
}
