// From an RGB picture to a model's input, as runtimes/preprocessing/transform.py does it: the same pixels to the bit, the same
// float32 operations in the same order. Depends on the standard library only.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "resample.hpp"

namespace resnet {

// The bundle cannot be read, or is of a schema this version does not know.
class BundleError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Size {
  int height;
  int width;
};

// At most one of `shorter_side` and `exact_size`; neither means no resize. Without `crop` there is an `exact_size`.
struct Preprocessing {
  std::optional<int> shorter_side;
  std::optional<Size> exact_size;
  std::optional<Size> crop;
  Interpolation interpolation = Interpolation::bilinear;
  std::array<float, 3> mean{};  // R, G, B, on the scale 0-1
  std::array<float, 3> std{};

  // Of every prepared image.
  Size input_size() const { return crop ? *crop : *exact_size; }
};

// What this example needs of manifest.json.
struct Manifest {
  Preprocessing preprocessing;
  std::string input;   // name of the model's only input
  std::string output;  // name of its first output, the scores of the classes
  std::int64_t num_classes = 0;
  bool needs_softmax = true;  // false: the model gives probabilities
};

// Read BUNDLE/manifest.json. Throws BundleError: nothing is guessed, schema_version must be 1.
Manifest load_manifest(const std::string& bundle);

// Of what the model gives for one image: its softmax, or itself where the model gives probabilities.
std::vector<double> probabilities(const Manifest& manifest, const std::vector<float>& scores);

// Read a text file; throws BundleError.
std::string read_file(const std::string& path);

// Resize and crop; `rgb` is uint8 [height, width, 3] without padding between rows. Throws std::invalid_argument on an
// image without pixels or so long and thin that its resized form would not fit in memory.
RgbImage pixels(const Preprocessing& preprocessing, const std::uint8_t* rgb, int height, int width);

// (x / 255 - mean) / std, each step rounded to float32; returns float32 [3, H, W].
std::vector<float> normalize(const Preprocessing& preprocessing, const RgbImage& image);

// `pixels`, then `normalize`: float32 [3, H, W], which is [1, 3, H, W] too.
std::vector<float> preprocess(const Preprocessing& preprocessing, const std::uint8_t* rgb, int height, int width);

}  // namespace resnet
