// Run an engine on zeros: run_engine model.engine. TensorRT 8.5 or later.
// g++ -std=c++17 run_engine.cpp -o run_engine -I/usr/local/cuda/include -L/usr/local/cuda/lib64 -lnvinfer -lcudart
// The sidecar is checked first: engine size, TensorRT version and GPU. run_engine.py also checks the digest.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <regex>
#include <string>

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << text << '\n';
    }
};

[[noreturn]] void fail(std::string const& text) { std::cerr << text << '\n'; std::exit(2); }
void check(cudaError_t code) { if (code != cudaSuccess) fail(cudaGetErrorString(code)); }

std::string read(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// Read one key of the sidecar, which irepdeploy writes with one `"key": value,` per line.
std::string field(std::string const& json, std::string const& key) {
    std::smatch line;
    std::regex const form('"' + key + "\": \"?(.*?)\"?,?\n");
    return std::regex_search(json, line, form) ? line.str(1) : (fail("the sidecar has no " + key), "");
}

int main(int count, char** arguments) {
    if (count != 2) fail("run_engine model.engine");
    std::string const path = arguments[1], plan = read(path), sidecar = read(path + ".json");
    cudaDeviceProp gpu;
    check(cudaGetDeviceProperties(&gpu, 0));
    auto const dotted = [](int a, int b) { return std::to_string(a) + "." + std::to_string(b); };
    std::map<std::string, std::string> const here{
        {"size_bytes", std::to_string(plan.size())},
        {"tensorrt_version", dotted(NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR) + "." + std::to_string(NV_TENSORRT_PATCH)},
        {"compute_capability", dotted(gpu.major, gpu.minor)}};
    for (auto const& [key, found] : here) {
        std::string const built = field(sidecar, key), again = "; build it again: " + field(sidecar, "command");
        bool const fits = built == "null" || (built + ".").rfind(found + ".", 0) == 0;
        if (!fits) fail(path + ": " + key + " " + built + " in its sidecar, " + found + " here" + again);
    }

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) fail(path + ": TensorRT refuses it; its reason is above");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    std::map<std::string, std::pair<float*, size_t>> outputs;
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        std::string const name = engine->getIOTensorName(index);
        auto shape = engine->getTensorShape(name.c_str());
        float* memory = nullptr;
        size_t items = 1;
        for (int axis = 0; axis < shape.nbDims; ++axis) items *= shape.d[axis] = shape.d[axis] < 0 ? 1 : shape.d[axis];
        if (engine->getTensorDataType(name.c_str()) != nvinfer1::DataType::kFLOAT) fail(name + ": not float32");
        check(cudaMallocManaged(&memory, items * sizeof(float)));  // read here and by the GPU
        std::fill_n(memory, items, 0.0f);
        context->setTensorAddress(name.c_str(), memory);
        bool const gives = engine->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kOUTPUT;
        if (gives) outputs[name] = {memory, items};
        else if (!context->setInputShape(name.c_str(), shape)) fail(name + ": a batch of 1 is outside the profile");
    }
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    if (!context->enqueueV3(stream)) fail(path + ": TensorRT cannot run it; its reason is above");
    check(cudaStreamSynchronize(stream));
    for (auto const& [name, output] : outputs) {
        std::cout << name;
        std::for_each_n(output.first, std::min<size_t>(output.second, 10), [](float x) { std::cout << ' ' << x; });
        std::cout << '\n';
    }
}
