#include "engine.hpp"

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <fstream>
#include <iostream>
#include <stdexcept>

#include "json.hpp"

namespace resnet {
namespace {

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << message << '\n';
  }
};

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")");
}

void check(bool succeeded, const std::string& call) {
  if (!succeeded) throw std::runtime_error("TensorRT: " + call + " failed; its own message is above");
}

struct Stream {
  Stream() { check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t handle = nullptr;
};

struct Buffer {
  explicit Buffer(std::size_t bytes) : size(bytes) { check(cudaMalloc(&address, bytes), "cudaMalloc"); }
  ~Buffer() { cudaFree(address); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* address = nullptr;
  std::size_t size;
};

std::string text_of(const nvinfer1::Dims& dims) {
  std::string text = "[";
  for (int axis = 0; axis < dims.nbDims; ++axis) text += (axis == 0 ? "" : ", ") + std::to_string(dims.d[axis]);
  return text + "]";
}

// The version that runs, as "10.3.0": 10 and newer count major * 10000, 8 and 9 major * 1000.
std::string loaded_version() {
  const int number = getInferLibVersion();
  const int unit = number >= 100000 ? 10000 : 1000;
  return std::to_string(number / unit) + "." + std::to_string(number % unit / 100) + "." +
         std::to_string(number % 100);
}

// The first three of "10.3.0.30".
std::string three_parts(const std::string& version) {
  std::size_t end = 0;
  for (int part = 0; part < 3 && end != std::string::npos; ++part) end = version.find('.', end == 0 ? 0 : end + 1);
  return version.substr(0, end);
}

std::string capability_of_this_gpu() {
  int device = 0;
  int major = 0;
  int minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  return std::to_string(major) + "." + std::to_string(minor);
}

void check_same(const std::string& what, const std::string& built, const std::string& here) {
  if (built != here) {
    throw BundleError("the engine was built for " + what + " " + built + ", here is " + here +
                      "; build it on this device");
  }
}

// What runtimes/trt/engine_sidecar.py writes beside an engine; trtexec writes none.
void check_sidecar(const std::string& engine, std::size_t size) {
  const std::string path = engine + ".json";
  if (!std::ifstream(path)) {
    std::cerr << "note: " << path << " is not there, so only TensorRT checks the engine\n";
    return;
  }
  try {
    const Json content = Json::parse(read_file(path));
    if (content.at("schema_version").integer("schema_version") != 1) throw JsonError("expected schema_version 1");
    const Json& facts = content.at("facts");
    check_same("the library", facts.at("flavour").string("flavour"), "tensorrt");
    const Json::Object& flags = facts.at("flags").object("flags");
    if (flags.count("version_compat") == 0) {
      check_same("TensorRT", three_parts(facts.at("tensorrt_version").string("tensorrt_version")), loaded_version());
    }
    const Json& capability = facts.at("compute_capability");
    if (!capability.is_null() && flags.count("hardware_compat") == 0) {
      check_same("compute capability", capability.string("compute_capability"), capability_of_this_gpu());
    }
    if (content.at("engine_size_bytes").integer("engine_size_bytes") != static_cast<std::int64_t>(size)) {
      throw BundleError(engine + " is not the engine that " + path + " tells of; build it again");
    }
  } catch (const JsonError& err) {
    throw BundleError(path + ": " + err.what());
  }
}

}  // namespace

// Members are destroyed from the last to the first: buffers and context before the engine, the engine before the
// runtime, the logger last.
struct Engine::State {
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Buffer> input;
  std::unique_ptr<Buffer> output;

  void check_tensor(const std::string& name, nvinfer1::TensorIOMode mode) const {
    if (engine->getTensorIOMode(name.c_str()) != mode) throw BundleError("the engine has no tensor \"" + name + "\"");
    if (engine->getTensorDataType(name.c_str()) != nvinfer1::DataType::kFLOAT) {
      throw BundleError("\"" + name + "\" of the engine is not float32; build it without --inputIOFormats");
    }
  }
};

Engine::Engine(const std::string& path, const Manifest& manifest) : state_(std::make_unique<State>()) {
  State& state = *state_;
  const std::string plan = read_file(path);
  check_sidecar(path, plan.size());
  state.runtime.reset(nvinfer1::createInferRuntime(state.logger));
  check(state.runtime != nullptr, "createInferRuntime");
  state.engine.reset(state.runtime->deserializeCudaEngine(plan.data(), plan.size()));
  check(state.engine != nullptr, "deserializeCudaEngine of " + path);
  if (state.engine->getNbIOTensors() != 2) throw BundleError(path + ": expected one input and one output");
  state.check_tensor(manifest.input, nvinfer1::TensorIOMode::kINPUT);
  state.check_tensor(manifest.output, nvinfer1::TensorIOMode::kOUTPUT);
  state.context.reset(state.engine->createExecutionContext());
  check(state.context != nullptr, "createExecutionContext");

  const Size size = manifest.preprocessing.input_size();
  nvinfer1::Dims wanted{};
  wanted.nbDims = 4;
  wanted.d[0] = 1;
  wanted.d[1] = 3;
  wanted.d[2] = size.height;
  wanted.d[3] = size.width;
  const char* input = manifest.input.c_str();
  check(state.context->setInputShape(input, wanted), "setInputShape " + text_of(wanted));
  check(state.context->inferShapes(0, nullptr) == 0, "inferShapes");
  const nvinfer1::Dims given = state.context->getTensorShape(manifest.output.c_str());
  if (given.nbDims != 2 || given.d[0] != 1 || given.d[1] != manifest.num_classes) {
    throw BundleError(path + ": got logits " + text_of(given) + ", expected [1, " +
                      std::to_string(manifest.num_classes) + "]; is it of another bundle?");
  }
  const auto area = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  state.input = std::make_unique<Buffer>(3 * area * sizeof(float));
  state.output = std::make_unique<Buffer>(static_cast<std::size_t>(manifest.num_classes) * sizeof(float));
  state.stream = std::make_unique<Stream>();
  check(state.context->setTensorAddress(input, state.input->address), "setTensorAddress of the input");
  check(state.context->setTensorAddress(manifest.output.c_str(), state.output->address),
        "setTensorAddress of the output");
}

Engine::~Engine() = default;

std::vector<float> Engine::run(const std::vector<float>& input) {
  State& state = *state_;
  if (input.size() * sizeof(float) != state.input->size) throw std::invalid_argument("input: wrong number of values");
  std::vector<float> logits(state.output->size / sizeof(float));
  const cudaStream_t stream = state.stream->handle;
  check(cudaMemcpyAsync(state.input->address, input.data(), state.input->size, cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync to the GPU");
  check(state.context->enqueueV3(stream), "enqueueV3");
  check(cudaMemcpyAsync(logits.data(), state.output->address, state.output->size, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync from the GPU");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return logits;
}

}  // namespace resnet
