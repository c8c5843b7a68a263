// TensorRT 10.3.0 as examples/run_engine.cpp sees it, signatures as in its own header. An engine is the text "engine" and
// reads x (any batch, 3) and gives y (any batch, 2): y = 1 + the sum of x, then 2 more.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <string>

#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
#define NV_TENSORRT_PATCH 0

namespace nvinfer1 {

struct Dims { int32_t nbDims; int64_t d[8]; };
enum class DataType : int32_t { kFLOAT, kHALF };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };

struct ILogger {
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, char const* text) noexcept = 0;
    virtual ~ILogger() = default;
};

struct IExecutionContext {
    std::map<std::string, float*> memory;
    Dims shape{};
    bool setInputShape(char const*, Dims const& given) noexcept { shape = given; return given.d[0] == 1; }
    bool setTensorAddress(char const* name, void* data) noexcept { memory[name] = static_cast<float*>(data); return true; }
    template <class Stream>
    bool enqueueV3(Stream) noexcept {
        if (shape.nbDims != 2 || memory.size() != 2) return false;
        float const sum = std::accumulate(memory["x"], memory["x"] + 3, 0.0f);
        memory["y"][0] = sum + 1;
        memory["y"][1] = sum + 3;
        return true;
    }
};

struct ICudaEngine {
    int32_t getNbIOTensors() const noexcept { return 2; }
    char const* getIOTensorName(int32_t index) const noexcept { return index == 0 ? "x" : "y"; }
    Dims getTensorShape(char const* name) const noexcept { return {2, {-1, *name == 'x' ? 3 : 2}}; }
    DataType getTensorDataType(char const*) const noexcept { return DataType::kFLOAT; }
    TensorIOMode getTensorIOMode(char const* name) const noexcept {
        return *name == 'x' ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext; }
};

struct IRuntime {
    ILogger& logger;
    ICudaEngine* deserializeCudaEngine(void const* data, size_t size) noexcept {
        if (size == 6 && std::memcmp(data, "engine", size) == 0) return new ICudaEngine;
        logger.log(ILogger::Severity::kERROR, "no engine");
        logger.log(ILogger::Severity::kINFO, "not to be shown");
        return nullptr;
    }
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime{logger}; }

}  // namespace nvinfer1
