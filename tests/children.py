"""Processes of their own for tests: copies of the test's process, so that nothing has to be imported again."""
import gc, json, os, signal, sys, time

class Child:
    "A copy of this process that does `work()` and ends with the code that it returns."
    def __init__(self, work, out=os.devnull, err=None, before=lambda: None): # what it says goes to out; its errors to err, or there too
        sys.stdout.flush(); sys.stderr.flush()
        gc.freeze()                                                  # what is there already is nobody's garbage
        self.code, self.began, self.pid = None, time.monotonic(), os.fork()
        if self.pid: return
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            to = lambda path: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(to(out), 1)
            os.dup2(to(err) if err else 1, 2)
            sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            code = work() or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            for f in (sys.stdout, sys.stderr):
                try: f.flush()
                except OSError: pass
            os._exit(code)

    def _ended(self, how): # -> has it? with its exit code, or minus the signal, in self.code
        if self.code is None:
            pid, status = os.waitpid(self.pid, how)
            if pid: self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic()-self.began
        return self.code is not None

    def poll(self): return self.code if self._ended(os.WNOHANG) else None

    def wait(self): # -> exit code, or minus the signal
        self._ended(0)
        return self.code

    def kill(self, after=0): # seconds -> was it killed before it had ended?
        time.sleep(after)
        if self.code is None: os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

def answers(folder, *works):
    "What each of the works returns, as JSON, all at the same time in processes of their own."
    def keep(k): (folder/f'.answer{k}').write_text(json.dumps(works[k]()))
    all_of_them = [Child(lambda k=k: keep(k), out=folder/f'.said{k}') for k in range(len(works))]
    codes = [c.wait() for c in all_of_them]
    assert not any(codes), [(folder/f'.said{k}').read_text()[-2000:] for k, code in enumerate(codes) if code]
    return [json.loads((folder/f'.answer{k}').read_text()) for k in range(len(works))]
