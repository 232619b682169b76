// A TensorRT engine that classifies one image at a time: names for inputs and outputs, enqueueV3 (TensorRT 8.5 to 11).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "preprocess.hpp"

namespace resnet {

class Engine {
 public:
  // Loads `path` and checks it against the bundle and, where there is one, `path`.json.
  // Throws BundleError on an engine that does not fit, std::runtime_error on a failure of TensorRT or CUDA.
  Engine(const std::string& path, const Manifest& manifest);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // `input` is float32 [1, 3, H, W]; returns float32 [num_classes].
  std::vector<float> run(const std::vector<float>& input);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace resnet
