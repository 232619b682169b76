// A strict JSON reader (RFC 8259) for manifest.json: no comments, no trailing commas, no repeated keys, no NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace resnet {

// What was got, what was expected; the caller adds the file's name.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  Json() = default;
  template <typename T>
  explicit Json(T value) : value_(std::move(value)) {}

  // Read a whole document; throws JsonError with the byte offset of what is wrong.
  static Json parse(const std::string& text);

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Typed access; throws JsonError naming `what` when the value is of another kind.
  const Object& object(const std::string& what) const;
  const Array& array(const std::string& what) const;
  const std::string& string(const std::string& what) const;
  bool boolean(const std::string& what) const;
  std::int64_t integer(const std::string& what) const;  // written without '.' or exponent
  double number(const std::string& what) const;         // any number

  // A member of an object; throws JsonError if this is no object or the key is missing.
  const Json& at(const std::string& key) const;

 private:
  const char* kind() const;

  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> value_ = nullptr;
};

}  // namespace resnet
