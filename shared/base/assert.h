/* Assertions that stay on in release builds: a broken invariant stops the process before it can
 * write something wrong. They are for our own mistakes only; bad input is an mq_error. */
#ifndef MQ_BASE_ASSERT_H
#define MQ_BASE_ASSERT_H

_Noreturn void mq_assert_fail(const char *expr, const char *file, int line, const char *func);

#define MQ_ASSERT(cond) ((cond) ? (void)0 : mq_assert_fail(#cond, __FILE__, __LINE__, __func__))

#endif
