#include "json.hpp"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>

namespace resnet {
namespace {

constexpr int kMaxDepth = 100;  // a bracket repeated 100 000 times must not exhaust the stack

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Json document() {
    Json value = element(0);
    skip_space();
    if (place_ != text_.size()) fail("expected the end of the document");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    throw JsonError("not JSON: " + reason + " at byte " + std::to_string(place_));
  }

  // '\0' at the end; a NUL byte inside the text is refused by whoever expects something else.
  char peek() const { return place_ < text_.size() ? text_[place_] : '\0'; }

  void skip_space() {
    while (place_ < text_.size() && std::string(" \t\r\n").find(text_[place_]) != std::string::npos) ++place_;
  }

  void expect(char wanted) {
    if (peek() != wanted || place_ >= text_.size()) fail(std::string("expected '") + wanted + "'");
    ++place_;
  }

  bool take(const std::string& word) {
    if (text_.compare(place_, word.size(), word) != 0) return false;
    place_ += word.size();
    return true;
  }

  Json element(int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    skip_space();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return Json(string());
      default:
        break;
    }
    if (take("true")) return Json(true);
    if (take("false")) return Json(false);
    if (take("null")) return Json(nullptr);
    return number();
  }

  Json object(int depth) {
    Json::Object members;
    expect('{');
    skip_space();
    if (take("}")) return Json(std::move(members));
    do {
      skip_space();
      std::string key = string();
      skip_space();
      expect(':');
      if (members.count(key) != 0) fail("key \"" + key + "\" is there twice");
      members.emplace(std::move(key), element(depth + 1));
      skip_space();
    } while (take(","));
    expect('}');
    return Json(std::move(members));
  }

  Json array(int depth) {
    Json::Array values;
    expect('[');
    skip_space();
    if (take("]")) return Json(std::move(values));
    do {
      values.push_back(element(depth + 1));
      skip_space();
    } while (take(","));
    expect(']');
    return Json(std::move(values));
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("expected a digit");
    while (peek() >= '0' && peek() <= '9') ++place_;
  }

  Json number() {
    const std::size_t start = place_;
    take("-");
    if (!take("0")) digits();
    bool whole = true;
    if (take(".")) {
      whole = false;
      digits();
    }
    if (take("e") || take("E")) {
      whole = false;
      if (!take("+")) take("-");
      digits();
    }
    const std::string written = text_.substr(start, place_ - start);
    if (whole) {
      errno = 0;
      const std::int64_t value = std::strtoll(written.c_str(), nullptr, 10);
      if (errno == ERANGE) fail("integer " + written + " is beyond 64 bits");
      return Json(value);
    }
    // Not strtod: it reads "0.5" as 0 in a locale whose decimal sign is a comma.
    std::istringstream stream(written);
    stream.imbue(std::locale::classic());
    double value = 0;
    if (!(stream >> value) || !std::isfinite(value)) fail("number " + written + " is beyond double precision");
    return Json(value);
  }

  std::string string() {
    expect('"');
    std::string value;
    while (true) {
      if (place_ >= text_.size()) fail("the string is not closed");
      const char byte = text_[place_++];
      if (byte == '"') return value;
      if (static_cast<unsigned char>(byte) < 0x20) fail("control character in a string");
      if (byte == '\\') {
        escape(value);
      } else {
        value += byte;
      }
    }
  }

  void escape(std::string& value) {
    static const std::string codes = "\"\\/bfnrt";
    static const std::string meanings = "\"\\/\b\f\n\r\t";
    const char code = peek();
    ++place_;
    if (code == 'u') {
      append_utf8(value, code_point());
      return;
    }
    const std::size_t found = code == '\0' ? std::string::npos : codes.find(code);
    if (found == std::string::npos) fail("unknown escape in a string");
    value += meanings[found];
  }

  unsigned hex4() {
    unsigned value = 0;
    for (int count = 0; count < 4; ++count, ++place_) {
      const char digit = peek();
      unsigned nibble = 0;
      if (digit >= '0' && digit <= '9') {
        nibble = static_cast<unsigned>(digit - '0');
      } else if (digit >= 'a' && digit <= 'f') {
        nibble = static_cast<unsigned>(digit - 'a') + 10;
      } else if (digit >= 'A' && digit <= 'F') {
        nibble = static_cast<unsigned>(digit - 'A') + 10;
      } else {
        fail("expected four hexadecimal digits");
      }
      value = value * 16 + nibble;
    }
    return value;
  }

  // One \uXXXX, or two that form a surrogate pair (RFC 8259, section 7).
  unsigned code_point() {
    const unsigned high = hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || !take("\\u")) fail("half a surrogate pair");
    const unsigned low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  static void append_utf8(std::string& text, unsigned code) {
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | (code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      text += static_cast<char>(0xE0 | (code >> 12));
      tail(6);
      tail(0);
    } else {
      text += static_cast<char>(0xF0 | (code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  const std::string& text_;
  std::size_t place_ = 0;
};

}  // namespace

Json Json::parse(const std::string& text) { return Parser(text).document(); }

const char* Json::kind() const {
  static const char* const names[] = {"null", "true or false", "an integer", "a number",
                                      "a string", "an array", "an object"};
  return names[value_.index()];
}

const Json::Object& Json::object(const std::string& what) const {
  if (const auto* value = std::get_if<Object>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected an object");
}

const Json::Array& Json::array(const std::string& what) const {
  if (const auto* value = std::get_if<Array>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected an array");
}

const std::string& Json::string(const std::string& what) const {
  if (const auto* value = std::get_if<std::string>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected a string");
}

bool Json::boolean(const std::string& what) const {
  if (const auto* value = std::get_if<bool>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected true or false");
}

std::int64_t Json::integer(const std::string& what) const {
  if (const auto* value = std::get_if<std::int64_t>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected a whole number");
}

double Json::number(const std::string& what) const {
  if (const auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<double>(&value_)) return *value;
  throw JsonError(what + ": got " + kind() + ", expected a number");
}

const Json& Json::at(const std::string& key) const {
  const Object& members = object("the value that holds '" + key + "'");
  const auto found = members.find(key);
  if (found == members.end()) throw JsonError("'" + key + "' is missing");
  return found->second;
}

}  // namespace resnet
