import sys,time,signal,faulthandler,traceback
from tests.chaos.in_memory.foreign_schedules import play
class TO(BaseException): pass
def h(*a): raise TO
signal.signal(signal.SIGALRM,h)
a,b=int(sys.argv[1]),int(sys.argv[2])
t=time.time(); n=0; stale=0; closed=0
for s in range(a,b):
    if s%2==0: continue
    if time.time()-t>float(sys.argv[3]): print("time over at",s); break
    signal.setitimer(signal.ITIMER_REAL,10)
    try:
        p=play(s); n+=1; stale+=p.stale; closed+=p.closed
        if p.problems: print(s,[x[:300] for x in p.problems[:3]],flush=True)
    except TO:
        print(s,"HANGS"); traceback.print_exc(limit=-14); sys.stdout.flush()
        if len(sys.argv)>4: break
    finally: signal.setitimer(signal.ITIMER_REAL,0)
print(n,"schedules",closed,"closed",stale,"stale",time.time()-t)
