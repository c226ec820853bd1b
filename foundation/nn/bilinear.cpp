// Products of components with sparse coefficients, foundation/nn/bilinear.py, and their first two derivatives, for CPUs:
//
//   out[i, p, k] = sum_n value_n left[i, a_n, k] right[i, b_n, k],  terms n sorted by p_n
//
// One atom and one vector of channels at a time: everything stays in the nearest cache. Arrays are dense and row-major.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

struct Sizes {
    int64_t atoms, left, right, out, channels, terms, threads;
};

template <typename T> struct Arrays {
    const int32_t* index;  // [3, terms]: p, a, b
    const T *values, *grad, *left, *right, *other_left, *other_right;
    T *d_grad, *d_left, *d_right;
};

template <typename T, int LANES> struct Vector {
    typedef T type __attribute__((vector_size(LANES * sizeof(T))));

    static void load(const T* from, int64_t rows, int64_t channels, type* to) {
        for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row, from + row * channels, sizeof(type));
    }
    static void store(const type* from, int64_t rows, int64_t channels, T* to) {
        for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row * channels, from + row, sizeof(type));
    }
};

// ORDER as in `bilinear_float`.
template <typename T, int LANES, int ORDER> void run(const Sizes& sizes, const Arrays<T>& arrays) {
    using V = Vector<T, LANES>;
    using Type = typename V::type;
    const int32_t *p = arrays.index, *a = p + sizes.terms, *b = a + sizes.terms;
    const int64_t channels = sizes.channels;
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
    {
        std::vector<Type> left(sizes.left), right(sizes.right), other_left(sizes.left), other_right(sizes.right);
        std::vector<Type> grad(sizes.out), out(sizes.out), d_left(sizes.left), d_right(sizes.right);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < sizes.atoms; ++i)
            for (int64_t k = 0; k < channels; k += LANES) {
                const int64_t at_left = i * sizes.left * channels + k, at_right = i * sizes.right * channels + k;
                const int64_t at_out = i * sizes.out * channels + k;
                V::load(arrays.left + at_left, sizes.left, channels, left.data());
                V::load(arrays.right + at_right, sizes.right, channels, right.data());
                if (ORDER > 0) V::load(arrays.grad + at_out, sizes.out, channels, grad.data());
                if (ORDER == 2) {
                    V::load(arrays.other_left + at_left, sizes.left, channels, other_left.data());
                    V::load(arrays.other_right + at_right, sizes.right, channels, other_right.data());
                }
                if (ORDER != 1) {
                    std::fill(out.begin(), out.end(), Type{});
                    for (int64_t n = 0; n < sizes.terms; ++n) {
                        const Type product = ORDER == 0 ? left[a[n]] * right[b[n]]
                                                        : other_left[a[n]] * right[b[n]] + left[a[n]] * other_right[b[n]];
                        out[p[n]] += product * arrays.values[n];
                    }
                    V::store(out.data(), sizes.out, channels, arrays.d_grad + at_out);
                }
                if (ORDER > 0) {
                    const Type* x = ORDER == 1 ? left.data() : other_left.data();
                    const Type* y = ORDER == 1 ? right.data() : other_right.data();
                    std::fill(d_left.begin(), d_left.end(), Type{});
                    std::fill(d_right.begin(), d_right.end(), Type{});
                    for (int64_t n = 0; n < sizes.terms; ++n) {
                        const Type scaled = grad[p[n]] * arrays.values[n];
                        d_left[a[n]] += scaled * y[b[n]];
                        d_right[b[n]] += scaled * x[a[n]];
                    }
                    V::store(d_left.data(), sizes.left, channels, arrays.d_left + at_left);
                    V::store(d_right.data(), sizes.right, channels, arrays.d_right + at_right);
                }
            }
    }
}

template <typename T, int LANES> void run_order(const Sizes& sizes, const Arrays<T>& arrays, int order) {
    if (order == 0) run<T, LANES, 0>(sizes, arrays);
    else if (order == 1) run<T, LANES, 1>(sizes, arrays);
    else run<T, LANES, 2>(sizes, arrays);
}

template <typename T> int enter(const int64_t* sizes, void* const* pointers, int order) {
    constexpr int MOST = VECTOR_BYTES / sizeof(T);
    const Sizes read{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
    const auto in = [&](int n) { return static_cast<const T*>(pointers[n]); };
    const auto out = [&](int n) { return static_cast<T*>(pointers[n]); };
    const Arrays<T> arrays{static_cast<const int32_t*>(pointers[0]), in(1), in(2), in(3), in(4), in(5), in(6),
                           out(7), out(8), out(9)};
    if (read.channels % MOST == 0) run_order<T, MOST>(read, arrays, order);
    else if (read.channels % (MOST / 2) == 0) run_order<T, MOST / 2>(read, arrays, order);
    else run_order<T, 1>(read, arrays, order);
    return 0;
}

}  // namespace

// sizes: as in Sizes. pointers: as in Arrays, null where an order does not use one. order: 0 the products (into d_grad),
// 1 their derivatives, 2 the derivatives of those.
extern "C" int bilinear_float(const int64_t* sizes, void* const* pointers, int order) {
    return enter<float>(sizes, pointers, order);
}

extern "C" int bilinear_double(const int64_t* sizes, void* const* pointers, int order) {
    return enter<double>(sizes, pointers, order);
}
