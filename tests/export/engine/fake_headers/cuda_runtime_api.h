// A CUDA runtime whose GPU is the host: what examples/run_engine.cpp calls of it.
#pragma once
#include <cstdlib>
#include <cstring>

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
using cudaStream_t = struct CUstream_st*;
struct cudaDeviceProp { char name[256]; int major, minor; };

inline char const* cudaGetErrorString(cudaError_t) { return "out of memory"; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* gpu, int) { gpu->major = 8; gpu->minor = 0; return cudaSuccess; }
inline cudaError_t cudaStreamCreate(cudaStream_t*) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

template <class T>
cudaError_t cudaMallocManaged(T** memory, size_t size, unsigned flags = 1) {
    *memory = static_cast<T*>(std::malloc(size));
    std::memset(static_cast<void*>(*memory), 255, size);
    return flags == 1 && *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
