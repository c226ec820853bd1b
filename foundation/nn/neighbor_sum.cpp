// The contraction of foundation/nn/neighbor_sum.py and its first two derivatives, for CPUs.
//
//   out[i, (l, e, c), k] = sum_s angular[i, s, e, g(k)] radial[i, s, l, k] features[j(i, s), (l, c), k]
//
// Receivers i are shared among threads; what belongs to a receiver stays in the nearest cache while its slots s are
// gone through. With as many threads the same numbers come out, bit for bit.
//
// Arrays are dense and row-major. Rows (l, e, c) of `out` and `grad` stand degree by degree, e before c.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, MOST_COMPONENTS = 9;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, MOST_COMPONENTS = 4;
#else
constexpr int VECTOR_BYTES = 16, MOST_COMPONENTS = 4;
#endif
constexpr int EDGE_COMPONENTS = 2;  // times MOST_COMPONENTS: sums that fit into registers
// Degree of each component.
constexpr int64_t DEGREE[] = {0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4};
constexpr int64_t MOST_DEGREES = 5;

struct Sizes {
    int64_t atoms, width, groups, edge_components, degrees, channels, threads;
    int64_t components() const { return degrees * degrees; }
    int64_t table() const { return groups * edge_components; }  // of one slot's angular part
    int64_t rows() const { return edge_components * components(); }
};

template <typename T> struct Index;
template <> struct Index<float> { using type = int32_t; };
template <> struct Index<double> { using type = int64_t; };

template <typename T, int LANES> struct Vector {
    typedef T type __attribute__((vector_size(LANES * sizeof(T))));
    typedef typename Index<T>::type index __attribute__((vector_size(LANES * sizeof(T))));

    static type load(const T* from) {
        type value;
        std::memcpy(&value, from, sizeof(value));
        return value;
    }
    static void store(T* to, type value) { std::memcpy(to, &value, sizeof(value)); }
};

template <typename T> struct Arrays {
    const T *grad, *angular, *radial, *features, *other_angular, *other_radial, *other_features;
    const int64_t* senders;
    const uint8_t* filled;
    T *d_grad, *d_angular, *d_radial, *d_features, *shares;
};

// What a thread keeps of one receiver: of its filled slots the angular parts, and for one vector of channels the rest.
template <typename T, int LANES> struct Room {
    using V = typename Vector<T, LANES>::type;
    std::vector<int64_t> slots;
    std::vector<T> angular, runs[2];
    std::vector<V> grad, messages, products;

    explicit Room(const Sizes& sizes)
        : angular(2 * sizes.width * sizes.table() + LANES), grad(sizes.rows()),
          messages(2 * sizes.width * sizes.components()), products(sizes.edge_components) {
        slots.reserve(sizes.width);
        for (auto& one : runs) one.resize(sizes.edge_components * LANES);
    }
    int64_t count() const { return slots.size(); }
};

// One receiver after the other. ORDER as in `neighbor_sum_float`; `other_` are the factors of the second order.
template <typename T, int LANES, int ORDER> struct Receivers {
    using V = Vector<T, LANES>;
    using Type = typename V::type;
    static constexpr bool SECOND = ORDER == 2;
    const Sizes& sizes;
    const Arrays<T>& arrays;
    const int64_t channels, components, edge, table, per_atom, per_sender, per_radial, group;

    Receivers(const Sizes& sizes, const Arrays<T>& arrays)
        : sizes(sizes), arrays(arrays), channels(sizes.channels), components(sizes.components()),
          edge(sizes.edge_components), table(sizes.table()), per_atom(sizes.rows() * channels),
          per_sender(components * channels), per_radial(sizes.degrees * channels), group(channels / sizes.groups) {}

    void visit(int64_t i, Room<T, LANES>& room, T* share) const {
        room.slots.clear();
        for (int64_t s = i * sizes.width; s < (i + 1) * sizes.width; ++s) {
            if (arrays.filled[s]) room.slots.push_back(s);
            if (ORDER > 0) {
                std::fill_n(arrays.d_angular + s * table, table, T(0));
                std::fill_n(arrays.d_radial + s * per_radial, per_radial, T(0));
            }
        }
        for (int64_t n = 0; n < room.count(); ++n) {
            const int64_t from = room.slots[n] * table;
            std::copy_n(arrays.angular + from, table, room.angular.data() + n * table);
            if (SECOND) std::copy_n(arrays.other_angular + from, table, room.angular.data() + (room.count() + n) * table);
        }
        for (int64_t first = 0; first < channels; first += LANES) {
            typename V::index groups;  // of the channels, relative to that of the first of them
            for (int lane = 0; lane < LANES; ++lane) groups[lane] = (first + lane) / group - first / group;
            if (ORDER > 0) derive(i, first, groups, room, share);
            if (ORDER != 1) sum(i, first, groups, room);
        }
    }

    // The n-th angular part for an edge component, repeated for the channels of each group; reads LANES numbers.
    Type spread(const Room<T, LANES>& room, int64_t n, int64_t e, int64_t first, typename V::index groups) const {
        const T* from = room.angular.data() + n * table + e * sizes.groups + first / group;
#if defined(__GNUC__) && !defined(__clang__)
        return __builtin_shuffle(V::load(from), groups);
#else
        Type value;
        for (int lane = 0; lane < LANES; ++lane) value[lane] = from[groups[lane]];
        return value;
#endif
    }

    Type message(int64_t s, int64_t c, int64_t first) const {
        return V::load(arrays.radial + s * per_radial + DEGREE[c] * channels + first) *
               V::load(arrays.features + arrays.senders[s] * per_sender + c * channels + first);
    }
    Type other_message(int64_t s, int64_t c, int64_t first) const {
        const int64_t radial = s * per_radial + DEGREE[c] * channels + first;
        const int64_t features = arrays.senders[s] * per_sender + c * channels + first;
        return V::load(arrays.other_radial + radial) * V::load(arrays.features + features) +
               V::load(arrays.radial + radial) * V::load(arrays.other_features + features);
    }
    int64_t row(int64_t e, int64_t c) const {
        const int64_t l = DEGREE[c];
        return edge * l * l + e * (2 * l + 1) + c - l * l;
    }

    // Order 0: sum_s angular message; order 2: sum_s (angular other_message + other_angular message).
    void sum(int64_t i, int64_t first, typename V::index groups, Room<T, LANES>& room) const {
        const int64_t count = room.count();
        for (int64_t n = 0; n < count; ++n)
            for (int64_t c = 0; c < components; ++c) {
                const Type plain = message(room.slots[n], c, first);
                room.messages[n * components + c] = SECOND ? other_message(room.slots[n], c, first) : plain;
                if (SECOND) room.messages[(count + n) * components + c] = plain;
            }
        int64_t c = 0;
        for (; c + MOST_COMPONENTS <= components; c += MOST_COMPONENTS)
            contract_all<MOST_COMPONENTS, EDGE_COMPONENTS>(i, c, first, groups, room);
        for (; c + 4 <= components; c += 4) contract_all<4, EDGE_COMPONENTS>(i, c, first, groups, room);
        for (; c < components; ++c) contract_all<1, 8>(i, c, first, groups, room);
    }

    template <int SIZE, int EDGE>
    void contract_all(int64_t i, int64_t c, int64_t first, typename V::index groups, const Room<T, LANES>& room) const {
        int64_t e = 0;
        for (; e + EDGE <= edge; e += EDGE) contract<SIZE, EDGE>(i, e, c, first, groups, room);
        for (; e < edge; ++e) contract<SIZE, 1>(i, e, c, first, groups, room);
    }

    // EDGE edge components times SIZE components, summed over slots in registers.
    template <int SIZE, int EDGE>
    void contract(int64_t i, int64_t e, int64_t c, int64_t first, typename V::index groups,
                  const Room<T, LANES>& room) const {
        Type total[EDGE][SIZE] = {};
        const Type* messages = room.messages.data() + c;
        for (int64_t n = 0; n < (SECOND ? 2 : 1) * room.count(); ++n, messages += components) {
            Type angular[EDGE];
#pragma GCC unroll 16
            for (int a = 0; a < EDGE; ++a) angular[a] = spread(room, n, e + a, first, groups);
#pragma GCC unroll 16
            for (int b = 0; b < SIZE; ++b)
#pragma GCC unroll 16
                for (int a = 0; a < EDGE; ++a) total[a][b] += angular[a] * messages[b];
        }
#pragma GCC unroll 16
        for (int a = 0; a < EDGE; ++a)
#pragma GCC unroll 16
            for (int b = 0; b < SIZE; ++b)
                V::store(arrays.d_grad + i * per_atom + row(e + a, c + b) * channels + first, total[a][b]);
    }

    void derive(int64_t i, int64_t first, typename V::index groups, Room<T, LANES>& room, T* share) const {
        for (int64_t e = 0; e < edge; ++e)
            for (int64_t c = 0; c < components; ++c)
                room.grad[e * components + c] = V::load(arrays.grad + i * per_atom + row(e, c) * channels + first);
        for (int64_t n = 0; n < room.count(); ++n) {
            int64_t c = 0;
            std::fill(room.products.begin(), room.products.end(), Type{});
            for (; c + MOST_COMPONENTS <= components; c += MOST_COMPONENTS)
                project<MOST_COMPONENTS>(n, c, first, groups, room, share);
            for (; c + 4 <= components; c += 4) project<4>(n, c, first, groups, room, share);
            for (; c < components; ++c) project<1>(n, c, first, groups, room, share);
            add_groups(room, arrays.d_angular + room.slots[n] * table + first / group);
        }
    }

    // SIZE components of one slot. With u = sum_e angular grad:
    //   products += sum_c grad message,  d_radial += sum_c u features,  d_features += u radial;
    // in the second order, with w = sum_e other_angular grad and other_message in place of message:
    //   d_radial += sum_c (w features + u other_features),  d_features += w radial + u other_radial.
    template <int SIZE>
    void project(int64_t n, int64_t c, int64_t first, typename V::index groups, Room<T, LANES>& room, T* share) const {
        const int64_t s = room.slots[n], count = room.count();
        Type values[SIZE], u[SIZE] = {}, w[SIZE] = {};
#pragma GCC unroll 16
        for (int b = 0; b < SIZE; ++b) values[b] = SECOND ? other_message(s, c + b, first) : message(s, c + b, first);
        for (int64_t e = 0; e < edge; ++e) {
            const Type* grad = room.grad.data() + e * components + c;
            const Type angular = spread(room, n, e, first, groups);
            const Type other = SECOND ? spread(room, count + n, e, first, groups) : Type{};
            Type product = room.products[e];
#pragma GCC unroll 16
            for (int b = 0; b < SIZE; ++b) {
                u[b] += angular * grad[b];
                if (SECOND) w[b] += other * grad[b];
                product += grad[b] * values[b];
            }
            room.products[e] = product;
        }
#pragma GCC unroll 16
        for (int b = 0; b < SIZE; ++b) {
            const int64_t radial = s * per_radial + DEGREE[c + b] * channels + first;
            const int64_t features = arrays.senders[s] * per_sender + (c + b) * channels + first;
            Type slope = V::load(arrays.d_radial + radial), step = V::load(share + features);
            slope += (SECOND ? w[b] : u[b]) * V::load(arrays.features + features);
            step += (SECOND ? w[b] : u[b]) * V::load(arrays.radial + radial);
            if (SECOND) {
                slope += u[b] * V::load(arrays.other_features + features);
                step += u[b] * V::load(arrays.other_radial + radial);
            }
            V::store(arrays.d_radial + radial, slope);
            V::store(share + features, step);
        }
    }

    // Add up the products of the channels of each group. A vector lies within a group, or holds whole ones.
    void add_groups(Room<T, LANES>& room, T* d_angular) const {
        T *values = room.runs[0].data(), *other = room.runs[1].data();
        std::memcpy(values, room.products.data(), edge * LANES * sizeof(T));
        int64_t size = std::min<int64_t>(LANES, group), count = edge * LANES;
        const int64_t several = LANES / size;
        for (; size % 2 == 0; size /= 2, std::swap(values, other)) {
            count /= 2;
            const T* __restrict from = values;
            T* __restrict to = other;
            for (int64_t k = 0; k < count; ++k) to[k] = from[2 * k] + from[2 * k + 1];
        }
        for (int64_t e = 0; e < edge; ++e)
            for (int64_t g = 0; g < several; ++g)
                for (int64_t q = 0; q < size; ++q)
                    d_angular[e * sizes.groups + g] += values[(e * several + g) * size + q];
    }
};

template <typename T, int LANES, int ORDER> void run(const Sizes& sizes, const Arrays<T>& arrays) {
    const Receivers<T, LANES, ORDER> receivers(sizes, arrays);
    const int64_t all = sizes.atoms * receivers.per_sender;  // of the features' derivatives
#pragma omp parallel num_threads(sizes.threads) if (sizes.threads > 1)
    {
        Room<T, LANES> room(sizes);
        // Each share of the receivers adds up by itself what it gives to senders.
#pragma omp for schedule(static, 1)
        for (int64_t n = 0; n < sizes.threads; ++n) {
            T* share = ORDER > 0 ? arrays.shares + n * all : nullptr;
            if (ORDER > 0) std::fill_n(share, all, T(0));
            for (int64_t i = n * sizes.atoms / sizes.threads; i < (n + 1) * sizes.atoms / sizes.threads; ++i)
                receivers.visit(i, room, share);
        }
        if (ORDER > 0) {
#pragma omp for schedule(static)
            for (int64_t j = 0; j < sizes.atoms; ++j) {
                const int64_t from = j * receivers.per_sender, to = from + receivers.per_sender;
                std::copy(arrays.shares + from, arrays.shares + to, arrays.d_features + from);
                for (int64_t n = 1; n < sizes.threads; ++n)
                    for (int64_t k = from; k < to; ++k) arrays.d_features[k] += arrays.shares[n * all + k];
            }
        }
    }
}

template <typename T, int LANES> void run_order(const Sizes& sizes, const Arrays<T>& arrays, int order) {
    if (order == 0) run<T, LANES, 0>(sizes, arrays);
    else if (order == 1) run<T, LANES, 1>(sizes, arrays);
    else run<T, LANES, 2>(sizes, arrays);
}

template <typename T> int dispatch(const Sizes& sizes, const Arrays<T>& arrays, int order) {
    if (sizes.degrees > MOST_DEGREES || sizes.channels % sizes.groups) return 1;
    constexpr int MOST = VECTOR_BYTES / sizeof(T);
    const int64_t group = sizes.channels / sizes.groups;
    const auto fits = [&](int lanes) {
        return sizes.channels % lanes == 0 && (group % lanes == 0 || lanes % group == 0);
    };
    if (fits(MOST)) run_order<T, MOST>(sizes, arrays, order);
    else if (fits(MOST / 2)) run_order<T, MOST / 2>(sizes, arrays, order);
    else run_order<T, 1>(sizes, arrays, order);
    return 0;
}

template <typename T> int enter(const int64_t* sizes, void* const* pointers, int order) {
    const Sizes read{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
    const auto in = [&](int n) { return static_cast<const T*>(pointers[n]); };
    const auto out = [&](int n) { return static_cast<T*>(pointers[n]); };
    const Arrays<T> arrays{in(0), in(1), in(2), in(3), in(4), in(5), in(6), static_cast<const int64_t*>(pointers[7]),
                           static_cast<const uint8_t*>(pointers[8]), out(9), out(10), out(11), out(12), out(13)};
    return dispatch<T>(read, arrays, order);
}

}  // namespace

// sizes: as in Sizes. pointers: as in Arrays, null where an order does not use one. order: 0 the sum (into d_grad),
// 1 its derivatives, 2 the derivatives of those. Returns 0, or 1 for sizes that it does not know.
extern "C" int neighbor_sum_float(const int64_t* sizes, void* const* pointers, int order) {
    return enter<float>(sizes, pointers, order);
}

extern "C" int neighbor_sum_double(const int64_t* sizes, void* const* pointers, int order) {
    return enter<double>(sizes, pointers, order);
}
