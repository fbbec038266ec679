#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

// Methods of bound classes. pybind11 gives an object that was made by `__new__` alone unwritten memory for a
// value; here such an object is a TypeError.
namespace bind {

namespace py = pybind11;

// The C++ object inside `object`, an argument called `name`. Raises TypeError for one of another class and
// for one whose `__init__` never ran.
template <class T>
T& made(py::handle object, const char* name) {
  const auto expected = [] { return std::string(py::str(py::type::of<T>().attr("__name__"))); };
  if (!py::isinstance<T>(object))
    throw py::type_error(std::string(name) + " is a " + Py_TYPE(object.ptr())->tp_name + "; expected a " +
                         expected());
  if (!reinterpret_cast<py::detail::instance*>(object.ptr())->get_value_and_holder().holder_constructed())
    throw py::type_error(std::string(name) + " is a " + expected() + " whose __init__ never ran; call " +
                         expected() + "(...)");
  return object.cast<T&>();
}

template <class T, class R, class... Arguments>
auto method(R (T::*function)(Arguments...)) {
  return [function](const py::object& self, Arguments... arguments) -> R {
    return (made<T>(self, "self").*function)(std::forward<Arguments>(arguments)...);
  };
}

template <class T, class R, class... Arguments>
auto method(R (T::*function)(Arguments...) const) {
  return [function](const py::object& self, Arguments... arguments) -> R {
    return (made<T>(self, "self").*function)(std::forward<Arguments>(arguments)...);
  };
}

// The same for a function that takes the object first.
template <class T, class R, class... Arguments>
auto method(R (*function)(T&, Arguments...)) {
  return [function](const py::object& self, Arguments... arguments) -> R {
    return function(made<T>(self, "self"), std::forward<Arguments>(arguments)...);
  };
}

}  // namespace bind
