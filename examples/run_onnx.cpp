// Run an ONNX file on zeros and print its outputs: run_onnx model.onnx. ONNX Runtime 1.13 or later.
// g++ -std=c++17 run_onnx.cpp -o run_onnx -Ionnxruntime/include -Lonnxruntime/lib -lonnxruntime
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

int main(int count, char** arguments) {
    if (count != 2) return std::cerr << "run_onnx model.onnx\n", 2;
    try {
        Ort::Env env(ORT_LOGGING_LEVEL_WARNING);
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1);  // number of cores to use
        Ort::Session session(env, arguments[1], options);
        Ort::AllocatorWithDefaultOptions allocator;
        auto const memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

        std::vector<std::string> names;
        std::vector<std::vector<float>> buffers;  // must outlive the tensors, which do not own their data
        std::vector<Ort::Value> inputs;
        for (size_t index = 0; index < session.GetInputCount(); ++index) {
            names.emplace_back(session.GetInputNameAllocated(index, allocator).get());
            auto const info = session.GetInputTypeInfo(index);
            auto const tensor = info.GetTensorTypeAndShapeInfo();
            if (tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
                return std::cerr << names.back() << ": this example feeds float32 only\n", 2;
            std::vector<int64_t> shape = tensor.GetShape();
            int64_t size = 1;
            for (auto& each : shape) size *= each = std::max<int64_t>(each, 1);  // -1 is a dynamic size
            buffers.emplace_back(size, 0.0f);
            inputs.push_back(Ort::Value::CreateTensor<float>(memory, buffers.back().data(), size, shape.data(), shape.size()));
        }
        size_t const given = names.size(), wanted = session.GetOutputCount();
        for (size_t index = 0; index < wanted; ++index)
            names.emplace_back(session.GetOutputNameAllocated(index, allocator).get());
        std::vector<char const*> texts;
        for (auto const& name : names) texts.push_back(name.c_str());

        auto const outputs = session.Run({}, texts.data(), inputs.data(), given, texts.data() + given, wanted);
        for (size_t index = 0; index < wanted; ++index) {
            auto const tensor = outputs[index].GetTensorTypeAndShapeInfo();
            std::cout << names[given + index];
            for (auto const size : tensor.GetShape()) std::cout << ' ' << size;
            if (tensor.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
                float const* values = outputs[index].GetTensorData<float>();
                for (size_t at = 0; at < std::min<size_t>(tensor.GetElementCount(), 10); ++at)
                    std::cout << (at ? ", " : ": ") << values[at];
            }
            std::cout << '\n';
        }
    } catch (Ort::Exception const& error) {
        return std::cerr << arguments[1] << ": " << error.what() << '\n', 2;
    }
}
