/* An extension module that reads texts: through references of its own, or through borrowed ones. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *longest(PyObject *module, PyObject *texts) {
    (void)module;
    Py_ssize_t most = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(texts); i++) {
        PyObject *text = PyList_GET_ITEM(texts, i);
#ifndef REMEDIED
        Py_INCREF(text);
#endif
        Py_ssize_t length = PyUnicode_GetLength(text);
        if (length > most) most = length;
#ifndef REMEDIED
        Py_DECREF(text);
#endif
    }
    return PyLong_FromSsize_t(most);
}

static PyMethodDef methods[] = {
    {"longest", longest, METH_O, "The length of the longest text of a list."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "reader", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit_reader(void) { return PyModule_Create(&definition); }
