// Run an engine on zeros: run_engine model.engine. TensorRT 8.5 or later.
// g++ -std=c++17 run_engine.cpp -o run_engine -I/usr/local/cuda/include -L/usr/local/cuda/lib64 -lnvinfer -lcudart
// Its size, TensorRT and GPU are held against its sidecar first; its digest is for run_engine.py to check.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
    }
};

[[noreturn]] void fail(std::string const& text) { std::fprintf(stderr, "%s\n", text.c_str()); std::exit(2); }
void check(cudaError_t code) { if (code != cudaSuccess) fail(cudaGetErrorString(code)); }

std::string read(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// One key of the sidecar, whose layout is ours: `"key": value,` on a line of its own. Text comes without its quotes.
std::string field(std::string const& json, std::string const& key) {
    auto at = json.find("\"" + key + "\": ");
    if (at == std::string::npos) fail("the sidecar has no " + key);
    at += key.size() + 4;
    auto value = json.substr(at, json.find('\n', at) - at);
    if (value.back() == ',') value.pop_back();
    return value.front() == '"' ? value.substr(1, value.size() - 2) : value;
}

int main(int count, char** arguments) {
    if (count != 2) fail("run_engine model.engine");
    std::string const path = arguments[1], plan = read(path), sidecar = read(path + ".json");
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    auto const gpu = std::to_string(major) + "." + std::to_string(minor);
    auto const version = std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) + "." +
                         std::to_string(NV_TENSORRT_PATCH);
    auto const again = "; build it again: " + field(sidecar, "command"), built = field(sidecar, "tensorrt_version");
    auto const capability = field(sidecar, "compute_capability");
    if (std::to_string(plan.size()) != field(sidecar, "size_bytes")) fail(path + ": truncated" + again);
    if ((built + ".").rfind(version + ".", 0) != 0) fail(path + ": of TensorRT " + built + ", not " + version + again);
    if (capability != "null" && capability != gpu) fail(path + ": built for " + capability + ", not " + gpu + again);

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) fail(path + ": TensorRT refuses it; its reason is above");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    std::map<std::string, std::vector<float>> outputs;
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        auto const shape = engine->getTensorShape(name);
        size_t items = 1;
        for (int axis = 0; axis < shape.nbDims; ++axis) items *= shape.d[axis] < 0 ? 1 : shape.d[axis];
        if (engine->getTensorDataType(name) != nvinfer1::DataType::kFLOAT) fail(std::string(name) + ": not float32");
        void* memory = nullptr;
        check(cudaMalloc(&memory, items * sizeof(float)));
        check(cudaMemset(memory, 0, items * sizeof(float)));
        context->setTensorAddress(name, memory);
        if (engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kOUTPUT) {
            outputs[name].resize(items);
            continue;
        }
        auto fixed = shape;
        for (int axis = 0; axis < shape.nbDims; ++axis) fixed.d[axis] = shape.d[axis] < 0 ? 1 : shape.d[axis];
        if (!context->setInputShape(name, fixed)) fail(std::string(name) + ": a batch of 1 is outside the profile");
    }
    if (!context->enqueueV3(stream)) fail(path + ": TensorRT cannot run it; its reason is above");
    check(cudaStreamSynchronize(stream));
    for (auto& [name, values] : outputs) {
        auto const* from = context->getTensorAddress(name.c_str());
        check(cudaMemcpy(values.data(), from, values.size() * sizeof(float), cudaMemcpyDeviceToHost));
        std::printf("%s:", name.c_str());
        for (size_t index = 0; index < values.size() && index < 10; ++index) std::printf(" %g", values[index]);
        std::printf("\n");
    }
}
