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

// What a thread keeps of one atom and one vector of channels.
template <typename Type> struct Room {
    std::vector<Type> left, right, other_left, other_right, grad, out, d_left, d_right;

    explicit Room(const Sizes& sizes)
        : left(sizes.left), right(sizes.right), other_left(sizes.left), other_right(sizes.right), grad(sizes.out),
          out(sizes.out), d_left(sizes.left), d_right(sizes.right) {}
};

// Row by row, one sum in a register.
template <typename T, int LANES, bool SECOND>
void products(const Sizes& sizes, const Arrays<T>& arrays, int64_t i, Room<typename Vector<T, LANES>::type>& room) {
    using V = Vector<T, LANES>;
    using Type = typename V::type;
    const int32_t *p = arrays.index, *a = p + sizes.terms, *b = a + sizes.terms;
    for (int64_t k = 0; k < sizes.channels; k += LANES) {
        const int64_t at_left = i * sizes.left * sizes.channels + k, at_right = i * sizes.right * sizes.channels + k;
        V::load(arrays.left + at_left, sizes.left, sizes.channels, room.left.data());
        V::load(arrays.right + at_right, sizes.right, sizes.channels, room.right.data());
        if (SECOND) {
            V::load(arrays.other_left + at_left, sizes.left, sizes.channels, room.other_left.data());
            V::load(arrays.other_right + at_right, sizes.right, sizes.channels, room.other_right.data());
        }
        const Type *x = room.left.data(), *y = room.right.data();
        const Type *u = room.other_left.data(), *v = room.other_right.data();
        std::fill(room.out.begin(), room.out.end(), Type{});
        for (int64_t n = 0; n < sizes.terms;) {
            const int32_t row = p[n];
            Type sum{};
            for (; n < sizes.terms && p[n] == row; ++n)
                sum += (SECOND ? u[a[n]] * y[b[n]] + x[a[n]] * v[b[n]] : x[a[n]] * y[b[n]]) * arrays.values[n];
            room.out[row] = sum;
        }
        V::store(room.out.data(), sizes.out, sizes.channels, arrays.d_grad + i * sizes.out * sizes.channels + k);
    }
}

// To both factors; where the others are to be differentiated, from those.
template <typename T, int LANES, bool SECOND>
void steps(const Sizes& sizes, const Arrays<T>& arrays, int64_t i, Room<typename Vector<T, LANES>::type>& room) {
    using V = Vector<T, LANES>;
    using Type = typename V::type;
    const int32_t *p = arrays.index, *a = p + sizes.terms, *b = a + sizes.terms;
    const T *left = SECOND ? arrays.other_left : arrays.left, *right = SECOND ? arrays.other_right : arrays.right;
    for (int64_t k = 0; k < sizes.channels; k += LANES) {
        const int64_t at_left = i * sizes.left * sizes.channels + k, at_right = i * sizes.right * sizes.channels + k;
        V::load(left + at_left, sizes.left, sizes.channels, room.left.data());
        V::load(right + at_right, sizes.right, sizes.channels, room.right.data());
        V::load(arrays.grad + i * sizes.out * sizes.channels + k, sizes.out, sizes.channels, room.grad.data());
        std::fill(room.d_left.begin(), room.d_left.end(), Type{});
        std::fill(room.d_right.begin(), room.d_right.end(), Type{});
        for (int64_t n = 0; n < sizes.terms; ++n) {
            const Type scaled = room.grad[p[n]] * arrays.values[n];
            room.d_left[a[n]] += scaled * room.right[b[n]];
            room.d_right[b[n]] += scaled * room.left[a[n]];
        }
        V::store(room.d_left.data(), sizes.left, sizes.channels, arrays.d_left + at_left);
        V::store(room.d_right.data(), sizes.right, sizes.channels, arrays.d_right + at_right);
    }
}

// ORDER as in `bilinear_float`. Steps go over WIDE channels at a time: what they add to in memory is added to less often.
template <typename T, int LANES, int WIDE, int ORDER> void run(const Sizes& sizes, const Arrays<T>& arrays) {
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
    {
        Room<typename Vector<T, LANES>::type> room(sizes);
        Room<typename Vector<T, WIDE>::type> wide(sizes);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < sizes.atoms; ++i) {
            if (ORDER != 1) products<T, LANES, ORDER == 2>(sizes, arrays, i, room);
            if (ORDER > 0) steps<T, WIDE, ORDER == 2>(sizes, arrays, i, wide);
        }
    }
}

template <typename T, int LANES, int WIDE> void run_order(const Sizes& sizes, const Arrays<T>& arrays, int order) {
    if (order == 0) run<T, LANES, WIDE, 0>(sizes, arrays);
    else if (order == 1) run<T, LANES, WIDE, 1>(sizes, arrays);
    else run<T, LANES, WIDE, 2>(sizes, arrays);
}

template <typename T> int enter(const int64_t* sizes, void* const* pointers, int order) {
    constexpr int MOST = VECTOR_BYTES / sizeof(T);
    const Sizes read{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
    const auto in = [&](int n) { return static_cast<const T*>(pointers[n]); };
    const auto out = [&](int n) { return static_cast<T*>(pointers[n]); };
    const Arrays<T> arrays{static_cast<const int32_t*>(pointers[0]), in(1), in(2), in(3), in(4), in(5), in(6),
                           out(7), out(8), out(9)};
    if (read.channels % (2 * MOST) == 0) run_order<T, MOST, 2 * MOST>(read, arrays, order);
    else if (read.channels % MOST == 0) run_order<T, MOST, MOST>(read, arrays, order);
    else if (read.channels % (MOST / 2) == 0) run_order<T, MOST / 2, MOST / 2>(read, arrays, order);
    else run_order<T, 1, 1>(read, arrays, order);
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
