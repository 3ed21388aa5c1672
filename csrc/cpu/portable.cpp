// Built with -DSUPERMASK_PORTABLE=ON only: a wheel made by a newer compiler that loads where glibc is 2.28 and
// libstdc++ that of gcc 8 (manylinux_2_28). What the newer headers call and those libraries lack is defined
// here; portable.map keeps it inside this library. `auditwheel` judges the result, see `make wheel`.
#include <new>
#include <sstream>

// glibc 2.32 tells libstdc++ by it whether reference counts may skip their atomic instructions: never here.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

namespace std {

void __throw_bad_array_new_length() { throw bad_array_new_length(); }

// Their default constructors and str() are in libstdc++ since gcc 9 and 11.
template class basic_stringbuf<char>;
template class basic_ostringstream<char>;
template class basic_stringstream<char>;

}  // namespace std
