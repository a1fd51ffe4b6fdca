/* A shared object that is none of handlers. */
int maasq_something_else;
int maasq_something_else = 1;
