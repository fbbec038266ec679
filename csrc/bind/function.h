#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "arguments.h"

// Functions and classes as Python sees them: bind::def(module, "name", &function, "argument", ...) and
// bind::Class. Calls are taken apart here, because pybind11 prints all arguments of a call that it refuses.
namespace bind {

// What a function is called, and its arguments.
template <size_t n>
struct Signature {
  const char* function;
  std::array<const char*, n> arguments;

  // For help(): in the form that Python's inspect.signature reads.
  std::string text(const char* doc) const {
    return std::string(function) + "(" + listed() + ")\n--\n\n" + doc;
  }
  std::string listed() const {
    std::string list;
    for (const char* argument : arguments) list += (list.empty() ? "" : ", ") + std::string(argument);
    return list;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw py::type_error(std::string(function) + "() " + why);
  }
};

// The values of a call in the order of the arguments. Raises TypeError where they are not exactly those.
template <size_t n>
std::array<py::handle, n> ordered(const Signature<n>& signature, const py::args& given,
                                  const py::kwargs& named) {
  if (given.size() > n)
    signature.refuse("takes " + std::to_string(n) + " arguments; " + std::to_string(given.size()) +
                     " are given");
  std::array<py::handle, n> values{};
  for (size_t i = 0; i < given.size(); ++i) values[i] = PyTuple_GET_ITEM(given.ptr(), i);
  for (const auto& [key, value] : named) {
    size_t i = 0;
    while (i < n && PyUnicode_CompareWithASCIIString(key.ptr(), signature.arguments[i]) != 0) ++i;
    if (i == n)
      signature.refuse("has no argument '" + As<std::string>::read(key, {"a name"}) + "'; it takes " +
                       signature.listed());
    if (values[i]) signature.refuse(std::string("has ") + signature.arguments[i] + " twice");
    values[i] = value;
  }
  for (size_t i = 0; i < n; ++i)
    if (!values[i]) signature.refuse(std::string("needs ") + signature.arguments[i]);
  return values;
}

template <class R, class... A, class Body, size_t... i>
R call(const Body& body, const std::array<py::handle, sizeof...(A)>& values,
       const Signature<sizeof...(A)>& signature, std::index_sequence<i...>) {
  std::tuple<std::decay_t<A>...> read{As<std::decay_t<A>>::read(values[i], {signature.arguments[i]})...};
  return body(std::forward<A>(std::get<i>(read))...);
}

// What pybind11 is given for `body`, which takes A and returns R.
template <class R, class... A, class Body>
auto function(const Signature<sizeof...(A)>& signature, Body body) {
  return [signature, body](const py::args& given, const py::kwargs& named) -> R {
    return call<R, A...>(body, ordered(signature, given, named), signature, std::index_sequence_for<A...>{});
  };
}

// Gives `to`, a module or a class, the function.
template <class R, class... A, class To, class Body>
void add(To& to, const Signature<sizeof...(A)>& signature, const char* doc, Body body) {
  py::options options;
  options.disable_function_signatures();
  to.def(signature.function, function<R, A...>(signature, body), signature.text(doc).c_str());
}

struct Doc {
  const char* text;
};

template <class R, class... A, class... Names>
void def(py::module_& m, const char* name, Doc doc, R (*function)(A...), Names... names) {
  static_assert(sizeof...(A) == sizeof...(Names), "every argument has a name");
  add<R, A...>(m, {name, {names...}}, doc.text, function);
}

template <class R, class... A, class... Names>
void def(py::module_& m, const char* name, R (*function)(A...), Names... names) {
  def(m, name, Doc{""}, function, names...);
}

// A class of Python's around T.
template <class T>
class Class {
 public:
  template <class... Extra>
  Class(py::module_& m, const char* name, const Extra&... extra) : class_(m, name, extra...), name_(name) {}

  // What makes one: called by the class's name.
  template <class... A, class... Names>
  Class& init(std::unique_ptr<T> (*make)(A...), Names... names) {
    static_assert(sizeof...(A) == sizeof...(Names), "every argument has a name");
    const Signature<sizeof...(A)> signature{name_, {names...}};
    py::options options;
    options.disable_function_signatures();
    class_.def(py::init(function<std::unique_ptr<T>, A...>(signature, make)),
               Signature<sizeof...(A) + 1>{"__init__", {"self", names...}}.text("").c_str());
    return *this;
  }

  template <class R, class... A, class... Names>
  Class& def(const char* name, R (T::*method)(A...), Names... names) {
    return method_of<R, A...>(name, method, names...);
  }
  template <class R, class... A, class... Names>
  Class& def(const char* name, R (T::*method)(A...) const, Names... names) {
    return method_of<R, A...>(name, method, names...);
  }
  // A function that takes the object first.
  template <class R, class... A, class... Names>
  Class& def(const char* name, R (*function)(T&, A...), Names... names) {
    return method_of<R, A...>(name, function, names...);
  }
  template <class Get>
  Class& property(const char* name, Get get) {
    const auto of = [get](py::handle self) { return std::invoke(get, made<T>(self, "self")); };
    using R = decltype(of(py::handle()));
    class_.def_property_readonly(name, py::cpp_function(function<R, py::handle>({name, {"self"}}, of)));
    return *this;
  }

 private:
  template <class R, class... A, class Method, class... Names>
  Class& method_of(const char* name, Method method, Names... names) {
    static_assert(sizeof...(A) == sizeof...(Names), "every argument has a name");
    add<R, py::handle, A...>(
        class_, {name, {"self", names...}}, "", [method](py::handle self, A... arguments) -> R {
          return std::invoke(method, made<T>(self, "self"), std::forward<A>(arguments)...);
        });
    return *this;
  }

  py::class_<T> class_;
  const char* name_;
};

}  // namespace bind
