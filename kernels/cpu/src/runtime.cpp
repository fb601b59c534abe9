// The little of a C++ library that the kernels need when they are linked, for compilers that would have to build one first.
//
// Zig compiles its own C++ library, a hundred files, before it links anything with it: minutes, for what is here. Nothing throws
// (-fno-exceptions), threads are the system's, and templates of the library are compiled where they are used.
#if defined(INFER_OWN_RUNTIME)

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

void *take(size_t size, size_t alignment = 0) {
    if (alignment <= alignof(max_align_t)) return malloc(size ? size : 1);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void *take_or_end(size_t size, size_t alignment = 0) {
    void *place = take(size, alignment);
    if (!place) abort();
    return place;
}

}  // namespace

namespace std {
const nothrow_t nothrow{};
}

void *operator new(size_t size) { return take_or_end(size); }
void *operator new[](size_t size) { return take_or_end(size); }
void *operator new(size_t size, std::align_val_t alignment) { return take_or_end(size, (size_t)alignment); }
void *operator new[](size_t size, std::align_val_t alignment) { return take_or_end(size, (size_t)alignment); }
void *operator new(size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new[](size_t size, const std::nothrow_t &) noexcept { return take(size); }
void operator delete(void *place) noexcept { free(place); }
void operator delete[](void *place) noexcept { free(place); }
void operator delete(void *place, size_t) noexcept { free(place); }
void operator delete[](void *place, size_t) noexcept { free(place); }
void operator delete(void *place, std::align_val_t) noexcept { free(place); }
void operator delete[](void *place, std::align_val_t) noexcept { free(place); }
void operator delete(void *place, size_t, std::align_val_t) noexcept { free(place); }
void operator delete[](void *place, size_t, std::align_val_t) noexcept { free(place); }

// What containers of LLVM's library call in place of throwing.
extern "C" [[noreturn]] void infer_end(const char *, ...) __asm__("_ZNSt3__122__libcpp_verbose_abortEPKcz");
extern "C" [[noreturn]] void infer_end(const char *, ...) { abort(); }

// Destructors of a thread's own variables are the C library's to call.
extern "C" int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern "C" int __cxa_thread_atexit(void (*destroy)(void *), void *object, void *library) { return __cxa_thread_atexit_impl(destroy, object, library); }

#endif
