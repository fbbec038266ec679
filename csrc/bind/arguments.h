#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrays.h"

// The arguments of a call, from Python's values to C++'s. What does not fit raises a TypeError that says
// which argument it is, of which type it is, and what is expected. No value is printed or, where a number is
// expected, asked for one if it is a tensor: torch crashes when it reads a tensor whose storage was freed.
namespace bind {

namespace py = pybind11;

// The place of a value in a call: an argument, or an item of what stands at `of`.
struct Place {
  const char* name;
  const Place* of = nullptr;
  size_t item = 0;
  std::string text() const { return of == nullptr ? name : of->text() + "[" + std::to_string(item) + "]"; }
};

[[noreturn]] inline void refuse(py::handle value, const Place& place, const std::string& expected) {
  throw py::type_error(place.text() + " is a " + arrays::type_name(value) + "; expected " + expected);
}

// The C++ object inside `object`. Raises TypeError for one of another class, and for one that was made by
// `__new__` alone: pybind11 would give unwritten memory for it.
template <class T>
T& made(py::handle object, const char* name) {
  const auto expected = [] { return std::string(py::str(py::type::of<T>().attr("__name__"))); };
  if (!py::isinstance<T>(object)) refuse(object, {name}, "a " + expected());
  if (!reinterpret_cast<py::detail::instance*>(object.ptr())->get_value_and_holder().holder_constructed())
    throw py::type_error(std::string(name) + " is a " + expected() + " whose __init__ never ran; call " +
                         expected() + "(...)");
  return object.cast<T&>();
}

template <class T>
std::string expected_number() {
  if (std::is_same_v<T, bool>) return "True or False";
  if (!std::is_integral_v<T>) return "a number";
  return "a whole number from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
         std::to_string(std::numeric_limits<T>::max());
}

// The items of a list, a tuple, an array or the like.
inline py::tuple items(py::handle value, const Place& place) {
  PyObject* given = value.ptr();
  if (arrays::is_tensor(value) || PyUnicode_Check(given) || PyBytes_Check(given) || !PySequence_Check(given))
    refuse(value, place, "a sequence such as a list");
  return py::reinterpret_steal<py::tuple>(arrays::checked(PySequence_Tuple(given)).release());
}

// How a value becomes a T. This one: a class of Python's own.
template <class T, class = void>
struct As {
  static T read(py::handle value, const Place& place) {
    if (!py::isinstance<T>(value))
      refuse(value, place, std::string("a ") + py::detail::handle_type_name<T>::name.text);
    return py::reinterpret_borrow<T>(value);
  }
};

template <>
struct As<py::handle> {
  static py::handle read(py::handle value, const Place&) { return value; }
};

template <class T>
struct As<T, std::enable_if_t<std::is_arithmetic_v<T>>> {
  static T read(py::handle value, const Place& place) {
    py::detail::make_caster<T> caster;
    if (arrays::is_tensor(value) || !caster.load(value, !std::is_integral_v<T>))
      refuse(value, place, expected_number<T>());
    return py::detail::cast_op<T>(caster);
  }
};

template <>
struct As<std::string> {
  static std::string read(py::handle value, const Place& place) {
    py::detail::make_caster<std::string> caster;
    if (!PyUnicode_Check(value.ptr()) || !caster.load(value, false))
      refuse(value, place, "a str of valid Unicode");
    return py::detail::cast_op<std::string&&>(std::move(caster));
  }
};

template <class T>
struct As<std::vector<T>> {
  static std::vector<T> read(py::handle value, const Place& place) {
    const py::tuple given = items(value, place);
    std::vector<T> all;
    all.reserve(given.size());
    for (size_t i = 0; i < given.size(); ++i)
      all.push_back(As<T>::read(PyTuple_GET_ITEM(given.ptr(), i), {nullptr, &place, i}));
    return all;
  }
};

template <class... T>
struct As<std::tuple<T...>> {
  static std::tuple<T...> read(py::handle value, const Place& place) {
    const py::tuple given = items(value, place);
    if (given.size() != sizeof...(T))
      throw py::type_error(place.text() + " has " + std::to_string(given.size()) + " entries; expected " +
                           std::to_string(sizeof...(T)));
    return each(given, place, std::index_sequence_for<T...>{});
  }

 private:
  template <size_t... i>
  static std::tuple<T...> each(const py::tuple& given, const Place& place, std::index_sequence<i...>) {
    return {As<T>::read(PyTuple_GET_ITEM(given.ptr(), i), {nullptr, &place, i})...};
  }
};

}  // namespace bind
