// Linear maps of components with constant, sparse coefficients, foundation/nn/sparse_map.py, for CPUs:
//
//   out[i, p, k] = sum_n value_n in[i, a_n, k],  terms n sorted by p_n
//
// One atom and one vector of channels at a time, each sum in a register. Arrays are dense and row-major.

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

struct Sizes {
    int64_t atoms, in, out, channels, terms, threads;
};

template <typename T> struct Arrays {
    const int32_t* index;  // [2, terms]: p, a
    const T *values, *in;
    T* out;
};

template <typename T, int LANES> void run(const Sizes& sizes, const Arrays<T>& arrays) {
    typedef T Type __attribute__((vector_size(LANES * sizeof(T))));
    const int32_t *p = arrays.index, *a = p + sizes.terms;
#pragma omp parallel for schedule(static) num_threads(sizes.threads) if (sizes.threads > 1)
    for (int64_t i = 0; i < sizes.atoms; ++i) {
        const T* in = arrays.in + i * sizes.in * sizes.channels;
        T* out = arrays.out + i * sizes.out * sizes.channels;
        for (int64_t k = 0; k < sizes.channels; k += LANES) {
            for (int64_t row = 0, n = 0; row < sizes.out; ++row) {
                Type sum{};
                for (; n < sizes.terms && p[n] == row; ++n) {
                    Type one;
                    std::memcpy(&one, in + a[n] * sizes.channels + k, sizeof one);
                    sum += one * arrays.values[n];
                }
                std::memcpy(out + row * sizes.channels + k, &sum, sizeof sum);
            }
        }
    }
}

template <typename T> int enter(const int64_t* sizes, void* const* pointers) {
    constexpr int MOST = VECTOR_BYTES / sizeof(T);
    const Sizes read{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    const Arrays<T> arrays{static_cast<const int32_t*>(pointers[0]), static_cast<const T*>(pointers[1]),
                           static_cast<const T*>(pointers[2]), static_cast<T*>(pointers[3])};
    if (read.channels % MOST == 0) run<T, MOST>(read, arrays);
    else if (read.channels % (MOST / 2) == 0) run<T, MOST / 2>(read, arrays);
    else run<T, 1>(read, arrays);
    return 0;
}

}  // namespace

// sizes: as in Sizes. pointers: as in Arrays. operation: there is one, 0.
extern "C" int sparse_map_float(const int64_t* sizes, void* const* pointers, int) {
    return enter<float>(sizes, pointers);
}

extern "C" int sparse_map_double(const int64_t* sizes, void* const* pointers, int) {
    return enter<double>(sizes, pointers);
}
