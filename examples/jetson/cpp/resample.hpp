// Resize an RGB image to the very bits that Pillow's Image.resize gives.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace resnet {

enum class Interpolation { nearest, box, bilinear, hamming, bicubic, lanczos };

// The names in manifest.json; throws std::invalid_argument listing them.
Interpolation interpolation_from_name(const std::string& name);

// uint8 [height, width, 3], R, G, B, rows without padding.
struct RgbImage {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> pixels;
};

// `pixels` is uint8 [height, width, 3]; every size > 0. Source: Pillow 13, libImaging/Resample.c and, for nearest,
// Geometry.c: antialiased convolution in two passes, in 8-bit fixed point with 22 fraction bits.
RgbImage resize(const std::uint8_t* pixels, int height, int width, int new_height, int new_width,
                Interpolation interpolation);

}  // namespace resnet
