// Quintic B-splines of foundation/nn/splines.py and their derivatives, for CPUs: six of all splines at every place.
//
//   order 0 of `operation`, at:       rows[i, f] = sum_k B(x_i - k) values[k, f]
//   1, spread:                        values[k, f] = sum_i B(x_i - k) rows[i, f]
//   2, dot:                           sums[i] = sum_k,f B(x_i - k) values[k, f] rows[i, f]
//
// with the derivative of B of any order. Where there are several tables of values, each row i names the one that it reads.
// Arrays are dense and row-major.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int DEGREE = 5, COUNT = DEGREE + 1;

struct Sizes {
    int64_t rows, tables, knots, width, derivative, threads;
};

// The splines that are not zero at `place`: weights, and the number of the first. False where none is among the knots.
template <typename T> bool find(const Sizes& sizes, T place, T* weights, int64_t& first) {
    if (sizes.derivative > DEGREE || !(place > -4 && place < sizes.knots + 4)) return false;
    const T below = std::floor(place), u = place - below;
    first = static_cast<int64_t>(below) - 2;
    // values[m] = M(u + m) of the cardinal spline M of a lower degree; its differences are derivatives.
    T values[COUNT] = {1};
    const int degree = DEGREE - sizes.derivative;
    for (int q = 1; q <= degree; ++q)
        for (int m = q; m >= 0; --m)
            values[m] = ((m < q ? (u + m) * values[m] : T(0)) + (m > 0 ? (q + 1 - u - m) * values[m - 1] : T(0))) / q;
    for (int d = degree + 1; d <= DEGREE; ++d)
        for (int m = d; m >= 0; --m) values[m] = (m < d ? values[m] : T(0)) - (m > 0 ? values[m - 1] : T(0));
    for (int j = 0; j < COUNT; ++j) weights[j] = values[DEGREE - j];
    return true;
}

// The splines at a place, and where their knots are among those of all tables.
template <typename T> struct Row {
    T weights[COUNT];
    int64_t begin = 0, end = 0;  // of the weights whose knots there are
    int64_t first = 0;

    Row(const Sizes& sizes, T place, int64_t table) {
        if (!find(sizes, place, weights, first)) return;
        begin = std::clamp<int64_t>(-first, 0, COUNT);
        end = std::clamp<int64_t>(sizes.knots - first, begin, COUNT);
        first += table * sizes.knots;
    }
};

// The table of every row: the only one where `numbers` is null.
struct Tables {
    const int64_t* numbers;
    int64_t operator[](int64_t row) const { return numbers ? numbers[row] : 0; }
};

template <typename T> void at(const Sizes& sizes, Tables tables, const T* places, const T* values, T* rows) {
#pragma omp parallel for schedule(static) num_threads(sizes.threads) if (sizes.threads > 1)
    for (int64_t i = 0; i < sizes.rows; ++i) {
        T* __restrict row = rows + i * sizes.width;
        std::fill_n(row, sizes.width, places[i] == places[i] ? T(0) : places[i]);
        const Row<T> splines(sizes, places[i], tables[i]);
        if (splines.begin == 0 && splines.end == COUNT) {
            const T* __restrict from = values + splines.first * sizes.width;
            const T a = splines.weights[0], b = splines.weights[1], c = splines.weights[2];
            const T d = splines.weights[3], e = splines.weights[4], f = splines.weights[5];
            const int64_t w = sizes.width;
            for (int64_t k = 0; k < w; ++k)
                row[k] = a * from[k] + b * from[w + k] + c * from[2 * w + k] + d * from[3 * w + k] +
                         e * from[4 * w + k] + f * from[5 * w + k];
            continue;
        }
        for (int64_t j = splines.begin; j < splines.end; ++j) {
            const T* __restrict from = values + (splines.first + j) * sizes.width;
            for (int64_t k = 0; k < sizes.width; ++k) row[k] += splines.weights[j] * from[k];
        }
    }
}

template <typename T> void spread(const Sizes& sizes, Tables tables, const T* places, const T* rows, T* values) {
    const int64_t all = sizes.tables * sizes.knots * sizes.width;
    std::vector<T> shares(sizes.threads * all, T(0));
#pragma omp parallel for schedule(static, 1) num_threads(sizes.threads) if (sizes.threads > 1)
    for (int64_t n = 0; n < sizes.threads; ++n)
        for (int64_t i = n * sizes.rows / sizes.threads; i < (n + 1) * sizes.rows / sizes.threads; ++i) {
            const Row<T> splines(sizes, places[i], tables[i]);
            const T* __restrict from = rows + i * sizes.width;
            for (int64_t j = splines.begin; j < splines.end; ++j) {
                T* __restrict to = shares.data() + n * all + (splines.first + j) * sizes.width;
                for (int64_t k = 0; k < sizes.width; ++k) to[k] += splines.weights[j] * from[k];
            }
            if (places[i] != places[i]) std::fill_n(shares.data() + n * all, all, places[i]);
        }
    std::copy_n(shares.data(), all, values);
    for (int64_t n = 1; n < sizes.threads; ++n)
        for (int64_t k = 0; k < all; ++k) values[k] += shares[n * all + k];
}

template <typename T>
void dot(const Sizes& sizes, Tables tables, const T* places, const T* values, const T* rows, T* sums) {
#pragma omp parallel for schedule(static) num_threads(sizes.threads) if (sizes.threads > 1)
    for (int64_t i = 0; i < sizes.rows; ++i) {
        const Row<T> splines(sizes, places[i], tables[i]);
        const T* __restrict row = rows + i * sizes.width;
        const int64_t w = sizes.width;
        T sum = places[i] == places[i] ? T(0) : places[i];
        if (splines.begin == 0 && splines.end == COUNT) {
            const T* __restrict from = values + splines.first * w;
            const T a = splines.weights[0], b = splines.weights[1], c = splines.weights[2];
            const T d = splines.weights[3], e = splines.weights[4], f = splines.weights[5];
#pragma omp simd reduction(+ : sum)
            for (int64_t k = 0; k < w; ++k)
                sum += row[k] * (a * from[k] + b * from[w + k] + c * from[2 * w + k] + d * from[3 * w + k] +
                                 e * from[4 * w + k] + f * from[5 * w + k]);
        } else {
            for (int64_t j = splines.begin; j < splines.end; ++j) {
                const T* __restrict from = values + (splines.first + j) * w;
                T part = 0;
#pragma omp simd reduction(+ : part)
                for (int64_t k = 0; k < w; ++k) part += from[k] * row[k];
                sum += splines.weights[j] * part;
            }
        }
        sums[i] = sum;
    }
}

template <typename T> int enter(const int64_t* sizes, void* const* pointers, int operation) {
    const Sizes read{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    const Tables tables{static_cast<const int64_t*>(pointers[4])};
    const T* places = static_cast<const T*>(pointers[0]);
    T *values = static_cast<T*>(pointers[1]), *rows = static_cast<T*>(pointers[2]);
    if (operation == 0) at<T>(read, tables, places, values, rows);
    else if (operation == 1) spread<T>(read, tables, places, rows, values);
    else dot<T>(read, tables, places, values, rows, static_cast<T*>(pointers[3]));
    return 0;
}

}  // namespace

// sizes: as in Sizes. pointers: places, values, rows, sums, tables; null where an operation does not use one.
extern "C" int splines_float(const int64_t* sizes, void* const* pointers, int operation) {
    return enter<float>(sizes, pointers, operation);
}

extern "C" int splines_double(const int64_t* sizes, void* const* pointers, int operation) {
    return enter<double>(sizes, pointers, operation);
}
