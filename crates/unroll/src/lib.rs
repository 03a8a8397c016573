//! The program: experiment files, planning, running, reporting.
